-- The fence of lockd's gateway in PostgreSQL: schema, roles, tables, functions. May be run again.
-- Run by an administrator. Applications get no right to any of it; the gateway's role may call
-- the functions granted at the end, over connections of its own.

-- Where there was no fence before, nothing can have been forgotten.
select set_config('lockd.fresh', (to_regnamespace('fence') is null)::text, true);

do $lockd$ begin
  if current_setting('server_version_num')::int < 140000 then
    raise exception 'the fence needs PostgreSQL 14 or newer, this is %', version();
  end if;
  if not exists (select from pg_roles where rolname = 'fence_owner') then
    create role fence_owner nologin;
  end if;
end $lockd$;

-- To end the backends of stale writers, and to see when each backend started. Nothing else.
grant pg_signal_backend, pg_read_all_stats to fence_owner;
create schema if not exists fence authorization fence_owner;
comment on schema fence is 'lockd fence, version 2';
revoke all on schema fence from public;

-- One mark per lock. token: the highest admitted or closing. drained: no writer below it is left.
-- seen_era: the era in which the mark was last known to be whole.
create table if not exists fence.hw (
  lock text primary key,
  token bigint not null,
  drained bigint not null check (drained <= token),
  seen_era bigint not null
) with (fillfactor = 50);

-- Which backend carries which ticket. All that a session carries is locked by each of its writes
-- until its transaction ends, so whoever changes a row here has waited for those writes. "stale"
-- is part of the key so that setting it conflicts with those locks (an update of other columns
-- would not). Unlogged: after a crash the backends are gone as well.
create unlogged table if not exists fence.session (
  pid int not null,
  lock text not null,
  stale boolean not null default false,
  token bigint not null,
  started timestamptz not null,
  addr inet,
  port int not null,
  number bigint not null,
  primary key (pid, lock, stale)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
create index if not exists session_lock on fence.session (lock, token);

-- The same for sessions behind a pooler, which have no backend of their own: one row for all who
-- carry a ticket. Their gateway tells each of their transactions the pass, which nobody can guess,
-- and each of its writes locks the row until the transaction ends. An advance deletes it, which
-- waits for those locks. key: advisory lock that is taken along, because the server does not tell
-- who holds the lock of a row. closing: nobody begins to write under it any more, or a steady stream
-- of writers, each with the lock before the last one lets it go, could keep a drain waiting; it is
-- no part of a key, so setting it waits for nobody. Unlogged: no pass outlives a crash.
create unlogged table if not exists fence.epoch (
  pass uuid primary key default gen_random_uuid(),
  lock text not null,
  token bigint not null,
  key bigint not null default hashtextextended(gen_random_uuid()::text, 0),
  closing boolean not null default false,
  unique (lock, token)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Empty after a crash or a promotion (unlogged), of another server start after a restart: then
-- marks may have been forgotten, and the lock service has to be asked. horizon: tokens above it
-- were granted after the era began, so nothing that was forgotten can be newer than they.
create unlogged table if not exists fence.boot (
  one boolean primary key default true check (one),
  started timestamptz not null,
  era bigint not null,
  horizon bigint not null
);

-- No token below it is admitted any more; marks below it may have been removed.
create table if not exists fence.floor (
  one boolean primary key default true check (one),
  floor bigint not null
);
insert into fence.floor (floor) values (0) on conflict do nothing;
insert into fence.boot (started, era, horizon)
  select pg_postmaster_start_time(), (extract(epoch from clock_timestamp()) * 1000000)::bigint, 0
   where current_setting('lockd.fresh') = 'true' on conflict do nothing;

alter table fence.hw owner to fence_owner;
alter table fence.session owner to fence_owner;
alter table fence.epoch owner to fence_owner;
alter table fence.boot owner to fence_owner;
alter table fence.floor owner to fence_owner;

-- The trigger of guarded tables: the session must carry a ticket that covers the table, and none
-- that is stale, or a stale holder of one lock could go on under another one that is current.
-- All that a session carries is locked and goes stale at once; if a write locked only the row that
-- covers it, a session with several could block on a drain in the middle of its transaction, and
-- hold up others for whom the drain waits. A backend that merely got the number of an earlier one
-- is told apart by its client's address.
--
-- A gateway in transaction mode tells what the session carries at the beginning of a transaction, in
-- a setting that ends with it: '{pass,..} token:lock token:lock ..', the locks in hexadecimal. Only
-- the passes prove anything, the rest is for words. Who makes one up has no pass; who repeats one
-- has shown the ticket again.
create or replace function fence.guard() returns trigger
language plpgsql security definer set search_path = pg_catalog, fence, pg_temp as $$
declare
  told text := current_setting('fence.told', true);
  one uuid;
  epoch_lock text;
  epoch_key bigint;
  is_closing boolean;
  held boolean;
  covered boolean := false;
  known boolean;
  gone record;
begin
  if told <> '' then
    -- In order of lock, as they were told. All on the way of every write: kept to what is cheap.
    foreach one in array split_part(told, ' ', 1)::uuid[] loop
      select o.lock, o.key, o.closing into epoch_lock, epoch_key, is_closing
        from fence.epoch o where o.pass = one for key share of o;
      held := found and not is_closing;
      exit when not held;
      known := pg_try_advisory_xact_lock_shared(epoch_key);
      covered := covered or case tg_argv[0] when 'prefix' then starts_with(epoch_lock, tg_argv[1])
                            else epoch_lock = tg_argv[1] end;
    end loop;
    if held and covered then return null; end if;
    select w.lock, w.token as shown, greatest(h.token, f.floor) as needed into gone
      from fence.floor f, (select convert_from(decode(split_part(t.word, ':', 2), 'hex'), 'UTF8') as lock,
                   split_part(t.word, ':', 1)::bigint as token
              from unnest((string_to_array(told, ' '))[2:]) t (word)) w
      left join fence.hw h on h.lock = w.lock
     where greatest(h.token, f.floor) > w.token
     order by w.lock limit 1;
  else
    perform 1 from fence.session s
     where s.pid = pg_backend_pid() and not s.stale
       and s.port = inet_client_port() and s.addr = inet_client_addr()
       and (case tg_argv[0] when 'prefix' then starts_with(s.lock, tg_argv[1])
            else s.lock = tg_argv[1] end
         or exists (select from fence.session c where c.pid = pg_backend_pid()
              and case tg_argv[0] when 'prefix' then starts_with(c.lock, tg_argv[1])
                  else c.lock = tg_argv[1] end))
       for key share of s;
    if found then return null; end if;
    select s.lock, s.token as shown, h.token as needed into gone
      from fence.session s join fence.hw h on h.lock = s.lock and h.token > s.token
     where s.pid = pg_backend_pid() and s.stale
       and s.port = inet_client_port() and s.addr = inet_client_addr()
     order by s.lock limit 1;
  end if;
  if found then
    raise exception 'stale ticket: lock "%" was shown with token %, the fence needs % or higher',
        gone.lock, gone.shown, gone.needed
      using errcode = 'FN001', schema = tg_table_schema, table = tg_table_name,
        detail = format('lock=%s token_shown=%s token_needed=%s',
          gone.lock, gone.shown, gone.needed),
        hint = 'Stop: somebody else holds the lock now. Acquire it again and show the new ticket; '
          || 'do not repeat the write as it is.';
  end if;
  raise exception 'a write to %.% needs a ticket of a lock that matches "%", and none was shown',
      tg_table_schema, tg_table_name,
      tg_argv[1] || case tg_argv[0] when 'prefix' then '%' else '' end
    using errcode = 'FN002', schema = tg_table_schema, table = tg_table_name,
      hint = 'Acquire the lock and show its ticket first, through the gateway and on this same '
        || 'session: SET fence.ticket = ''...''. In transaction mode it does not cover what '
        || 'follows a COMMIT within a procedure or within one message: send that on its own.';
end $$;

-- Once per client connection: who is this backend? Rows of an earlier one of that number go.
create or replace function fence.identify(
  p int, out started timestamptz, out superuser boolean, out port int, out here boolean)
language plpgsql security definer set search_path = pg_catalog, fence, pg_temp as $$
begin
  perform set_config('lock_timeout', '500', true);
  select a.backend_start, a.client_port,
         a.datid = (select d.oid from pg_database d where d.datname = current_database()),
         exists (select from pg_roles r where r.rolsuper and pg_has_role(a.usesysid, r.oid, 'member'))
    into started, port, here, superuser
    from pg_stat_get_activity(p) a;
  delete from fence.session s where s.pid = p and s.started is distinct from identify.started;
end $$;

-- Close, drain what can be drained within wait_ms, and register, for a whole set of tickets in
-- order of lock. One transaction; may be repeated; any gateway may do it. Without a session's
-- backend, what is registered is the epoch, and told is what to tell its transactions.
drop function if exists fence.admit(text[], bigint[], int, timestamptz, int, bigint, int);
create function fence.admit(
  locks text[], tokens bigint[], session_pid int, session_started timestamptz, session_port int,
  registration bigint, wait_ms int,
  out status text, out at_lock text, out at_shown bigint, out at_needed bigint, out era bigint,
  out told text)
language plpgsql security definer set search_path = pg_catalog, fence, pg_temp as $$
declare
  n int := cardinality(locks);
  horizon bigint;
  lowest bigint;
  mark record;
  advances boolean := false;
begin
  -- Locking first and looking afterwards only works if each statement sees what was committed
  -- while it waited.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fence.admit needs read committed';
  end if;
  select b.era, b.horizon into era, horizon from fence.boot b
   where b.started = pg_postmaster_start_time();
  if not found then status := 'unseeded'; return; end if;

  -- Lock the marks, in order of lock: everything about a lock happens in this order. The whole
  -- set is checked before anything is closed.
  for i in 1 .. n loop
    loop
      select h.token, h.drained, h.seen_era into mark from fence.hw h
       where h.lock = locks[i] for no key update;
      exit when found;
      -- seen_era 0 is no era: until it is closed, the row counts as missing.
      insert into fence.hw values (locks[i], 0, 0, 0) on conflict do nothing;
    end loop;
    select f.floor into lowest from fence.floor f;
    if not found then
      raise exception 'fence.floor is empty: the fence''s tables have been tampered with'
        using errcode = 'FN004';
    end if;
    at_lock := locks[i]; at_shown := tokens[i]; at_needed := greatest(mark.token, lowest);
    if at_needed > tokens[i] then
      status := 'stale';
    elsif mark.seen_era <> era and tokens[i] <= horizon then
      status := 'unknown';
    elsif (mark.token, mark.drained, mark.seen_era) <> (tokens[i], tokens[i], era) then
      advances := true;
    end if;
    exit when status is not null;
  end loop;
  if status = 'stale' then
    -- What was shown before is not what the client believes to write under now.
    delete from fence.session s where s.pid = session_pid;
  end if;
  if status is not null then return; end if;

  if session_pid is not null and not exists (select from pg_stat_get_activity(session_pid) a
                  where a.backend_start = session_started and a.client_port = session_port) then
    status := 'gone'; return;
  end if;

  begin
    perform set_config('lock_timeout', wait_ms::text, true);
    if advances then
      for i in 1 .. n loop
        -- Waits for every writer below that is in flight. What a session carries goes stale as a
        -- whole. The session to be admitted is idle.
        update fence.session s set stale = true where not s.stale and s.pid in (
          select o.pid from fence.session o
           where o.lock = locks[i] and o.token < tokens[i]
             and o.pid is distinct from session_pid);
        if found then
          delete from fence.session s
           where s.stale and s.pid in (
             select o.pid from fence.session o where o.lock = locks[i] and o.stale)
             and not exists (
               select from pg_stat_get_activity(s.pid) a where a.backend_start = s.started);
        end if;
        -- The same for every transaction that was told a lower one, whoever its session is.
        delete from fence.epoch e where e.lock = locks[i] and e.token < tokens[i];
        update fence.hw h set token = tokens[i], drained = tokens[i], seen_era = admit.era
         where h.lock = locks[i];
      end loop;
    end if;
    if session_pid is null then
      insert into fence.epoch (lock, token)
        select w.lock, w.token from unnest(locks, tokens) w (lock, token)
            on conflict (lock, token) do nothing;
      select array_agg(e.pass order by e.lock)::text || string_agg(
               ' ' || e.token || ':' || encode(convert_to(e.lock, 'UTF8'), 'hex'), ''
               order by e.lock)
        into told
        from fence.epoch e join unnest(locks, tokens) w (lock, token)
          on e.lock = w.lock and e.token = w.token;
    else
      delete from fence.session s where s.pid = session_pid;
      insert into fence.session (pid, lock, token, started, addr, port, number)
        select session_pid, w.lock, w.token, session_started, a.client_addr, session_port,
               registration
          from unnest(locks, tokens) w (lock, token), pg_stat_get_activity(session_pid) a;
    end if;
    status := 'ok';
  exception when lock_not_available or deadlock_detected then
    -- Closed all the same: nobody can register below any more.
    for i in 1 .. n loop
      update fence.hw h set token = tokens[i], seen_era = admit.era
       where h.lock = locks[i] and h.token < tokens[i];
      update fence.epoch e set closing = true where e.lock = locks[i] and e.token < tokens[i];
    end loop;
    status := 'busy';
  end;
end $$;

-- Ends the writers below that have a transaction open, and waits until they are gone. Sessions
-- that are not writing are left alone. Says how many are left.
create or replace function fence.evict(
  locks text[], tokens bigint[], session_pid int, wait_ms int) returns int
language plpgsql security definer set search_path = pg_catalog, fence, pg_temp as $$
declare
  own_database oid := (select d.oid from pg_database d where d.datname = current_database());
  victims int[];
  told int[];
  pids int[];
  starts timestamptz[];
  n int;
  asked_at timestamptz := clock_timestamp();
begin
  with below as materialized (
    select s.pid, s.started from fence.session s
      join unnest(locks, tokens) w (lock, token) on s.lock = w.lock and s.token < w.token
      join fence.hw h on h.lock = w.lock and h.token = w.token
     where not s.stale and s.pid is distinct from session_pid
  ), waiting as materialized (
    select s.pid from fence.session s
     where s.pid in (select b.pid from below b) for update skip locked
  )
  select array_agg(distinct b.pid) into victims
    from below b join pg_stat_get_activity(null) a on a.pid = b.pid and a.backend_start = b.started
   where a.xact_start is not null and b.pid not in (select w.pid from waiting w);
  -- Transactions that were told of an epoch write under it no more once it is closed, so that most
  -- of them end by themselves in a moment.
  loop
    select array_agg(distinct l.pid) into told
      from fence.epoch e
      join unnest(locks, tokens) w (lock, token) on e.lock = w.lock and e.token < w.token
      join fence.hw h on h.lock = w.lock and h.token = w.token
      join pg_locks l on l.locktype = 'advisory' and l.objsubid = 1 and l.granted
       and l.database = own_database and l.pid is not null
       and (l.classid::bigint << 32 | l.objid::bigint) = e.key;
    exit when told is null or clock_timestamp() > asked_at + interval '100 ms';
    perform pg_sleep(0.002);
  end loop;
  select array_agg(a.pid), array_agg(a.backend_start) into pids, starts
    from pg_stat_get_activity(null) a where a.pid = any (victims) or a.pid = any (told);
  if pids is null then return 0; end if;
  perform pg_terminate_backend(v.pid) from unnest(pids) v (pid);
  loop
    perform pg_stat_clear_snapshot();
    select count(*) into n from unnest(pids, starts) v (pid, started)
      join pg_stat_get_activity(null) a on a.pid = v.pid and a.backend_start = v.started;
    exit when n = 0 or clock_timestamp() > asked_at + wait_ms * interval '1 ms';
    perform pg_sleep(0.001);
  end loop;
  return n;
end $$;

-- A session gives its tickets back. Names the registration, so that a command that arrives late
-- does not hit a newer one.
create or replace function fence.give_back(
  session_pid int, session_started timestamptz, registration bigint) returns void
language plpgsql security definer set search_path = pg_catalog, fence, pg_temp as $$
begin
  perform set_config('lock_timeout', '1000', true);
  delete from fence.session s
   where s.pid = session_pid and s.started = session_started and s.number <= registration;
end $$;

-- The same after a connection has ended. Does not wait for what its backend still does.
create or replace function fence.forget(
  session_pid int, session_started timestamptz, registration bigint) returns void
language sql security definer set search_path = pg_catalog, fence, pg_temp as $$
  delete from fence.session s where (s.pid, s.lock, s.stale) in (
    select f.pid, f.lock, f.stale from fence.session f
     where f.pid = session_pid and f.started = session_started and f.number <= registration
       for update skip locked)
$$;

-- Begins to remember marks anew, or tells what another gateway has begun. Nothing that was
-- registered before counts any more.
create or replace function fence.begin_era() returns bigint
language plpgsql security definer set search_path = pg_catalog, fence, pg_temp as $$
declare
  fresh bigint;
begin
  perform set_config('lock_timeout', '1000', true);
  lock table fence.boot in share row exclusive mode;
  select b.era into fresh from fence.boot b where b.started = pg_postmaster_start_time();
  if found then return fresh; end if;
  -- A prepared transaction survives restarts, its registration does not.
  if exists (select from pg_prepared_xacts x where x.database = current_database()) then
    raise exception 'prepared transactions are pending in this database'
      using errcode = 'FN004', hint = 'Finish them: see pg_prepared_xacts.';
  end if;
  delete from fence.boot;
  delete from fence.session;
  delete from fence.epoch;
  fresh := ('x' || left(replace(gen_random_uuid()::text, '-', ''), 15))::bit(60)::bigint + 1;
  insert into fence.boot (started, era, horizon)
    values (pg_postmaster_start_time(), fresh, 9223372036854775807);
  return fresh;
end $$;

create or replace function fence.set_horizon(in_era bigint, token bigint) returns void
language sql security definer set search_path = pg_catalog, fence, pg_temp as $$
  update fence.boot b set horizon = least(b.horizon, token) where b.era = in_era
$$;

-- The lock service grants this token now, and was asked after the era began.
create or replace function fence.seed(in_era bigint, seed_lock text, seed_token bigint) returns void
language sql security definer set search_path = pg_catalog, fence, pg_temp as $$
  insert into fence.hw as h select seed_lock, seed_token, 0, in_era
   where exists (select from fence.boot b
                  where b.era = in_era and b.started = pg_postmaster_start_time())
      on conflict (lock) do update
     set token = greatest(h.token, excluded.token), seen_era = excluded.seen_era
$$;

-- Raises the floor and removes the marks below it: one transaction, so that no mark is missed
-- without the floor that stands in for it.
create or replace function fence.raise_floor(to_token bigint) returns bigint
language plpgsql security definer set search_path = pg_catalog, fence, pg_temp as $$
declare
  removed bigint;
begin
  update fence.floor f set floor = greatest(f.floor, to_token);
  delete from fence.hw h where h.token < (select f.floor from fence.floor f);
  get diagnostics removed = row_count;
  -- Those that somebody writes under go with the next advance.
  delete from fence.epoch e where e.pass in (
    select o.pass from fence.epoch o
     where o.token < (select f.floor from fence.floor f) for update skip locked);
  return removed;
end $$;

-- A connection of the gateway broke: what it may still have on its way must not be done later.
create or replace function fence.retire(p int, p_started timestamptz) returns boolean
language plpgsql security definer set search_path = pg_catalog, fence, pg_temp as $$
declare
  own oid := (select r.oid from pg_roles r where r.rolname = session_user);
begin
  for i in 1 .. 2000 loop
    perform pg_stat_clear_snapshot();
    if not exists (select from pg_stat_get_activity(p) a
                    where a.backend_start = p_started and a.usesysid = own) then
      return true;
    end if;
    if i = 1 then perform pg_terminate_backend(p); end if;
    perform pg_sleep(0.001);
  end loop;
  return false;
end $$;

-- Whether a lower token of this lock may still be written under.
create or replace function fence.is_behind(mark_lock text, mark_token bigint) returns boolean
language sql stable security definer set search_path = pg_catalog, fence, pg_temp as $$
  select exists (select from fence.hw h where h.lock = mark_lock and h.drained < mark_token)
$$;

-- What an operator wants to see.
create or replace function fence.marks(
  most int, out lock text, out token bigint, out drained bigint, out sessions bigint,
  out stale_sessions bigint) returns setof record
language sql stable security definer set search_path = pg_catalog, fence, pg_temp as $$
  select h.lock, h.token, h.drained,
         count(a.pid) filter (where not s.stale), count(a.pid) filter (where s.stale)
    from fence.hw h
    left join fence.session s on s.lock = h.lock
    left join pg_stat_get_activity(null) a on a.pid = s.pid and a.backend_start = s.started
   where h.token > 0
   group by h.lock, h.token, h.drained order by h.lock limit most
$$;

do $lockd$ declare f regprocedure; begin
  for f in select p.oid from pg_proc p where p.pronamespace = 'fence'::regnamespace loop
    execute format('alter function %s owner to fence_owner', f);
    execute format('revoke all on function %s from public', f);
  end loop;
end $lockd$;
