begin
  declare is_stale boolean default null;
  declare is_covered int default 0;
  declare told varchar(500);
  begin
    declare continue handler for 1442
      select s.stale, instr(s.carried, {pattern_hex}), concat('stale ticket: token ', s.at_shown,
        ' was shown, ', s.at_needed, ' is needed, of lock ',
        left(cast(s.at_lock as char character set utf8mb4), 40))
       into is_stale, is_covered, told
        from fence.session s
       where s.connection = connection_id()
         and s.boot = (select b.nonce from fence.boot b where b.one = 1
           and b.server = concat(@@hostname, ':', @@port, '/', @@server_id))
         lock in share mode;
    select s.stale, instr(s.carried, {pattern_hex}), concat('stale ticket: token ', s.at_shown,
      ' was shown, ', s.at_needed, ' is needed, of lock ',
      left(cast(s.at_lock as char character set utf8mb4), 40))
     into is_stale, is_covered, told
      from fence.session s
     where s.connection = connection_id()
       and s.boot = (select b.nonce from fence.boot b where b.one = 1
         and b.server = concat(@@hostname, ':', @@port, '/', @@server_id))
       for update;
  end;
  if is_stale then
    set told = coalesce(left(told, 128), 'stale ticket');
    signal sqlstate 'FN001' set mysql_errno = 1644, message_text = told,
      schema_name = {schema_literal}, table_name = {table_literal};
  end if;
  if is_stale is null or is_covered = 0 then
    signal sqlstate 'FN002' set mysql_errno = 1644, message_text = {no_ticket},
      schema_name = {schema_literal}, table_name = {table_literal};
  end if;
end
