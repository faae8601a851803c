
-- {table}: a write needs {pattern}. On the table itself and on everything below it, because a
-- statement fires the triggers of the table that it names, and of no other.
do $lockd$ declare t regclass; begin
  for t in
    with recursive tree (oid) as (
      select {table_literal}::regclass::oid
      union select i.inhrelid from pg_inherits i join tree on i.inhparent = tree.oid)
    select tree.oid::regclass from tree
  loop
    execute format(
      'create or replace trigger fence_guard before insert or update or delete or truncate on %s '
      'for each statement execute function fence.guard(%L, %L)',
      t, {kind_literal}, {argument_literal});
    execute format('alter table %s enable always trigger fence_guard', t);
  end loop;
end $lockd$;
