-- The fence of lockd's gateway in MariaDB: schema, owner, tables, procedures. May be run again.
-- Run by an administrator. Applications get no right to any of it; the gateway's account may call
-- the procedures granted at the end, over connections of its own.
delimiter //

set session sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'
//
-- Where there was no fence before, nothing can have been forgotten.
set @lockd_fresh = not exists (
  select 1 from information_schema.tables where table_schema = 'fence' and table_name = 'floor')
//
create database if not exists fence character set utf8mb4 collate utf8mb4_bin
//
alter database fence comment 'lockd fence, version 1'
//
create user if not exists fence_owner@localhost account lock
//
-- To end the connections of stale writers, to see who is connected and who waits for whom, and to
-- see who may do what. Nobody can log in as it.
grant process, connection admin on *.* to fence_owner@localhost
//
grant select on mysql.* to fence_owner@localhost
//
grant select, insert, update, delete, execute on fence.* to fence_owner@localhost
//

-- One mark per lock. token: the highest admitted or closing. drained: no writer below it is left.
-- seen_era: the era in which the mark was last known to be whole.
create table if not exists fence.hw (
  lck varbinary(256) not null primary key,
  token bigint not null,
  drained bigint not null,
  seen_era bigint not null
) engine = InnoDB
//
-- What each connection carries. One row per connection, found by its whole primary key, because
-- each of its writes locks it to the end of the transaction, and a range would lock the gaps
-- beside it as well. Whoever changes a row here has waited for those writes. carried: the names of
-- the locks, each between line ends. boot: connection numbers begin again after a restart, and a
-- row of another start of the server counts for nothing.
create table if not exists fence.session (
  connection bigint unsigned not null primary key,
  boot bigint not null,
  stale boolean not null default false,
  carried varbinary(8192) not null,
  number bigint not null,
  at_lock varbinary(256),
  at_shown bigint,
  at_needed bigint
) engine = InnoDB
//
-- The same, ticket by ticket, for finding who is below a token. Never touched by a write.
create table if not exists fence.held (
  connection bigint unsigned not null,
  lck varbinary(256) not null,
  token bigint not null,
  primary key (connection, lck),
  key held_lock (lck, token)
) engine = InnoDB
//
-- In memory: empty after a restart, and then marks may have been forgotten and the lock service
-- has to be asked. server: a replica that has been promoted got the row of another server. era is
-- 0 until a gateway has begun one. horizon: tokens above it were granted after the era began, so
-- nothing that was forgotten can be newer than they.
create table if not exists fence.boot (
  one tinyint not null primary key,
  nonce bigint not null,
  server varbinary(300) not null,
  era bigint not null,
  horizon bigint not null
) engine = MEMORY
//
-- No token below it is admitted any more; marks below it may have been removed.
create table if not exists fence.floor (
  one tinyint not null primary key,
  floor bigint not null
) engine = InnoDB
//
insert into fence.floor values (1, 0) on duplicate key update floor = floor
//

-- Which server this is.
create or replace definer = fence_owner@localhost function fence.here() returns varbinary(300)
  reads sql data sql security definer
  return concat(@@hostname, ':', @@port, '/', @@server_id)
//

-- 60 random bits, not 0.
create or replace definer = fence_owner@localhost function fence.fresh() returns bigint
  not deterministic no sql sql security definer
  return 1 + cast(conv(left(sha2(concat(uuid(), rand(), now(6), connection_id()), 256), 15), 16, 10)
    as unsigned)
//

-- One of the values of a list, counted from 1.
create or replace definer = fence_owner@localhost function fence.nth(
    list varbinary(8192), at int, separated_by varbinary(1)) returns varbinary(8192)
  deterministic no sql sql security definer
  return substring_index(substring_index(list, separated_by, at), separated_by, -1)
//
-- The same as a number: compared as text, tokens would be rounded.
create or replace definer = fence_owner@localhost function fence.nth_token(
    list varbinary(8192), at int) returns bigint
  deterministic no sql sql security definer
  return cast(fence.nth(list, at, ',') as signed)
//

insert ignore into fence.boot
  select 1, fence.fresh(), fence.here(), fence.fresh(), 0 from fence.floor where @lockd_fresh
//

-- Once per client connection: where does it come from, may its account switch the fence off, and
-- which start of the server is this? Rows of an earlier connection of that number go.
create or replace definer = fence_owner@localhost procedure fence.identify(p bigint unsigned)
  modifies sql data sql security definer
begin
  declare lowest, found bigint;
  set session innodb_lock_wait_timeout = 1;
  set transaction isolation level read committed;
  start transaction;
  if not exists (select 1 from fence.boot b where b.one = 1 and b.server = fence.here()) then
    select f.floor into lowest from fence.floor f where f.one = 1 for update;
    if not exists (select 1 from fence.boot b where b.one = 1 and b.server = fence.here()) then
      delete from fence.boot;
      insert into fence.boot values (1, fence.fresh(), fence.here(), 0, 9223372036854775807);
    end if;
  end if;
  -- Looked for first: a DELETE would wait for whoever locks the place where none is.
  select count(*) into found from fence.session s where s.connection = p;
  if found > 0 then
    delete from fence.session where connection = p;
    delete from fence.held where connection = p;
  end if;
  commit;
  select pr.host,
         exists (select 1 from information_schema.user_privileges u
           where left(u.grantee, char_length(pr.user) + 3) = concat('''', pr.user, '''@')
             and u.privilege_type in ('SUPER', 'SET USER', 'BINLOG REPLAY', 'CREATE USER',
               'INSERT', 'UPDATE', 'DELETE', 'DROP', 'ALTER', 'TRIGGER', 'EXECUTE',
               'ALTER ROUTINE')) as superuser,
         (select b.nonce from fence.boot b where b.one = 1) as boot
    from information_schema.processlist pr where pr.id = p;
end
//

-- Close, drain what can be drained within wait_s seconds, and register, for a whole set of tickets
-- in order of lock. With number 0, only close, drain and
-- wait for room. One transaction; may be repeated; any
-- gateway may do it.
create or replace definer = fence_owner@localhost procedure fence.admit(
    locks varbinary(8192), tokens varbinary(400), n int, p bigint unsigned, p_boot bigint,
    p_number bigint, wait_s int)
  modifies sql data sql security definer
proc: begin
  declare i int default 1;
  declare v_nonce, v_era, v_horizon, v_lowest, m_token, m_drained, m_seen bigint;
  declare v_lock varbinary(256);
  declare v_token bigint;
  declare v_needed bigint;
  declare advances, checked boolean default false;
  declare answer varchar(10) default null;
  -- Locking first and looking afterwards only works if each statement sees what was committed
  -- while it waited.
  set session innodb_lock_wait_timeout = wait_s;
  set transaction isolation level read committed;
  start transaction;
  work: begin
    declare exit handler for 1205 begin
      if checked then
        -- Closed all the same: nobody can register below any more.
        set i = 1;
        while i <= n do
          update fence.hw h set h.token = fence.nth_token(tokens, i), h.seen_era = v_era
           where h.lck = fence.nth(locks, i, '\n') and h.token < fence.nth_token(tokens, i);
          set i = i + 1;
        end while;
      end if;
      set answer = 'busy';
    end;
    declare exit handler for 1213 set answer = 'busy';

    select b.nonce, b.era, b.horizon into v_nonce, v_era, v_horizon
      from fence.boot b where b.one = 1 and b.server = fence.here();
    if v_nonce is null or v_nonce <> p_boot then set answer = 'gone'; leave work; end if;
    if v_era = 0 then set answer = 'unseeded'; leave work; end if;

    -- Lock the marks, in order of lock: everything about a lock happens in this order. The whole
    -- set is checked before anything is closed.
    while i <= n and answer is null do
      set v_lock = fence.nth(locks, i, '\n'), v_token = fence.nth_token(tokens, i);
      set m_token = null;
      select h.token, h.drained, h.seen_era into m_token, m_drained, m_seen
        from fence.hw h where h.lck = v_lock for update;
      if m_token is null then
        -- seen_era 0 is no era: until it is closed, the row counts as missing.
        insert into fence.hw values (v_lock, 0, 0, 0) on duplicate key update lck = v_lock;
        select h.token, h.drained, h.seen_era into m_token, m_drained, m_seen
          from fence.hw h where h.lck = v_lock for update;
      end if;
      set v_lowest = null;
      select f.floor into v_lowest from fence.floor f where f.one = 1;
      if v_lowest is null then
        signal sqlstate '45000' set mysql_errno = 30001,
          message_text = 'fence.floor is empty: the tables of the fence have been tampered with';
      end if;
      set v_needed = greatest(m_token, v_lowest);
      if v_needed > v_token then set answer = 'stale';
      elseif m_seen <> v_era and v_token <= v_horizon then set answer = 'unknown';
      elseif m_token <> v_token or m_drained <> v_token or m_seen <> v_era then
        set advances = true;
      end if;
      set i = i + 1;
    end while;
    if answer = 'stale' then
      -- What was shown before is not what the client believes to write under now.
      delete from fence.session where connection = p;
      delete from fence.held where connection = p;
    end if;
    if answer is not null then leave work; end if;
    set checked = true;

    set i = 1;
    while i <= n and advances do
      set v_lock = fence.nth(locks, i, '\n'), v_token = fence.nth_token(tokens, i);
      -- Waits for every writer below that is in flight. What a connection carries goes stale as a
      -- whole. The one to be admitted is idle.
      update fence.session s join fence.held h
          on h.connection = s.connection and h.lck = v_lock and h.token < v_token
         set s.stale = true, s.at_lock = v_lock, s.at_shown = h.token, s.at_needed = v_token
       where not s.stale and s.connection <> p;
      if row_count() > 0 then
        delete s, h from fence.session s join fence.held h on h.connection = s.connection
          join fence.held below on below.connection = s.connection and below.lck = v_lock
         where s.stale
           and s.connection not in (select pr.id from information_schema.processlist pr);
      end if;
      update fence.hw h set h.token = v_token, h.drained = v_token, h.seen_era = v_era
       where h.lck = v_lock;
      set i = i + 1;
    end while;

    if p_number = 0 then
      -- Waits for whoever locks the place where the registration is to go.
      insert into fence.session (connection, boot, stale, carried, number)
        values (p, 0, true, '', 0) on duplicate key update connection = p;
      delete from fence.session where connection = p and number = 0;
    else
      delete from fence.held where connection = p;
      insert into fence.session (connection, boot, stale, carried, number)
        values (p, p_boot, false, concat('\n', locks, '\n'), p_number)
        on duplicate key update boot = p_boot, stale = false, carried = values(carried),
          number = p_number, at_lock = null, at_shown = null, at_needed = null;
      set i = 1;
      while i <= n do
        insert into fence.held values (p, fence.nth(locks, i, '\n'), fence.nth_token(tokens, i));
        set i = i + 1;
      end while;
    end if;
    set answer = 'ok';
  end work;
  commit;
  select answer, v_lock as at_lock, v_token as at_shown, v_needed as at_needed, v_era as era;
end
//

-- Ends the connections that hold up the gateway's connection `waiter`, which is waiting in an
-- admission of these tickets: writers below them, and whoever has no registration and so no
-- business with a lock here. Connections all of whose tickets are current are left alone.
create or replace definer = fence_owner@localhost procedure fence.evict(
    locks varbinary(8192), tokens varbinary(400), n int, waiter bigint unsigned)
  modifies sql data sql security definer
begin
  declare ended int default 0;
  declare i, found int;
  declare no_more, spared boolean default false;
  declare v bigint unsigned;
  declare own varchar(128) default substring_index(user(), '@', 1);
  declare blockers cursor for
    select distinct b.trx_mysql_thread_id
      from information_schema.innodb_lock_waits w
      join information_schema.innodb_trx r on r.trx_id = w.requesting_trx_id
      join information_schema.innodb_trx b on b.trx_id = w.blocking_trx_id
      join information_schema.processlist pr on pr.id = b.trx_mysql_thread_id
     where r.trx_mysql_thread_id = waiter and pr.user <> own;
  declare continue handler for not found set no_more = true;
  declare continue handler for 1094 begin end;
  set transaction isolation level read committed;
  start transaction;
  open blockers;
  each_one: loop
    fetch blockers into v;
    if no_more then leave each_one; end if;
    -- Counted by SELECTs of their own: within SET they would lock what they read.
    select count(*) into found from fence.session s join fence.boot b on b.nonce = s.boot
     where s.connection = v and not s.stale and b.server = fence.here();
    set i = 1, spared = found > 0;
    while i <= n and spared do
      select count(*) into found from fence.held h where h.connection = v
        and h.lck = fence.nth(locks, i, '\n') and h.token < fence.nth_token(tokens, i);
      set i = i + 1, spared = found = 0;
    end while;
    if not spared then kill connection v; set ended = ended + 1; end if;
  end loop;
  close blockers;
  commit;
  select ended;
end
//

-- A session gives its tickets back. Names the registration, so that a command that arrives late
-- does not hit a newer one. With skip, does not wait for what the connection still does.
create or replace definer = fence_owner@localhost procedure fence.give_back(
    p bigint unsigned, p_boot bigint, p_number bigint, skip boolean)
  modifies sql data sql security definer
begin
  declare v bigint unsigned;
  set session innodb_lock_wait_timeout = 1;
  set transaction isolation level read committed;
  start transaction;
  if skip then
    select s.connection into v from fence.session s
     where s.connection = p and s.boot = p_boot and s.number <= p_number for update skip locked;
  else
    select s.connection into v from fence.session s
     where s.connection = p and s.boot = p_boot and s.number <= p_number for update;
  end if;
  if v is not null then
    delete from fence.session where connection = p;
    delete from fence.held where connection = p;
  end if;
  commit;
  select 1;
end
//

-- Begins to remember marks anew, or tells what another gateway has begun. Nothing that was
-- registered before counts any more.
create or replace definer = fence_owner@localhost procedure fence.begin_era()
  modifies sql data sql security definer
begin
  declare lowest, v_era bigint;
  set session innodb_lock_wait_timeout = 1;
  set transaction isolation level read committed;
  start transaction;
  select f.floor into lowest from fence.floor f where f.one = 1 for update;
  select b.era into v_era from fence.boot b where b.one = 1 and b.server = fence.here();
  if v_era = 0 then
    delete from fence.session;
    delete from fence.held;
    set v_era = fence.fresh();
    update fence.boot set era = v_era, horizon = 9223372036854775807 where one = 1;
  end if;
  commit;
  select v_era;
end
//

create or replace definer = fence_owner@localhost procedure fence.set_horizon(
    in_era bigint, p_token bigint)
  modifies sql data sql security definer
begin
  update fence.boot set horizon = least(horizon, p_token) where one = 1 and era = in_era;
  select 1;
end
//

-- The lock service grants this token now, and was asked after the era began.
create or replace definer = fence_owner@localhost procedure fence.seed(
    in_era bigint, p_lock varbinary(256), p_token bigint)
  modifies sql data sql security definer
begin
  set session innodb_lock_wait_timeout = 1;
  set transaction isolation level read committed;
  start transaction;
  if exists (select 1 from fence.boot b
      where b.one = 1 and b.server = fence.here() and b.era = in_era) then
    insert into fence.hw values (p_lock, p_token, 0, in_era)
      on duplicate key update token = greatest(token, p_token), seen_era = in_era;
  end if;
  commit;
  select 1;
end
//

-- Raises the floor and removes the marks below it: one transaction, so that no mark is missed
-- without the floor that stands in for it.
create or replace definer = fence_owner@localhost procedure fence.raise_floor(to_token bigint)
  modifies sql data sql security definer
begin
  declare removed bigint;
  set transaction isolation level read committed;
  start transaction;
  update fence.floor set floor = greatest(floor, to_token) where one = 1;
  delete from fence.hw where token < (select f.floor from fence.floor f where f.one = 1);
  set removed = row_count();
  commit;
  select removed;
end
//

-- A connection of the gateway broke: what it may still have on its way must not be done later.
create or replace definer = fence_owner@localhost procedure fence.retire(
    p bigint unsigned, p_boot bigint)
  modifies sql data sql security definer
begin
  declare i int default 0;
  declare own varchar(128) default substring_index(user(), '@', 1);
  declare continue handler for 1094 begin end;
  if exists (select 1 from fence.boot b where b.one = 1 and b.nonce = p_boot) then
    while i < 2000 and exists (select 1 from information_schema.processlist pr
        where pr.id = p and pr.user = own) do
      if i = 0 then kill connection p; end if;
      do sleep(0.001);
      set i = i + 1;
    end while;
  end if;
  select i < 2000;
end
//

-- What an operator wants to see.
create or replace definer = fence_owner@localhost procedure fence.marks(most int)
  reads sql data sql security definer
begin
  select cast(h.lck as char character set utf8mb4) as lck, h.token, h.drained,
         count(case when not s.stale then s.connection end) as sessions,
         count(case when s.stale then s.connection end) as stale_sessions
    from fence.hw h
    left join fence.held d on d.lck = h.lck
    left join (fence.session s join fence.boot b on b.nonce = s.boot
      join information_schema.processlist pr on pr.id = s.connection)
      on s.connection = d.connection
   where h.token > 0
   group by h.lck, h.token, h.drained order by h.lck limit most;
end
//

-- For `gateway check`: the server as a whole.
create or replace definer = fence_owner@localhost procedure fence.look_at_server()
  reads sql data sql security definer
begin
  select version(), @@port,
         (select s.schema_comment from information_schema.schemata s where s.schema_name = 'fence'),
         (select group_concat(concat(t.table_name, ' ', t.engine) order by t.table_name)
            from information_schema.tables t where t.table_schema = 'fence'),
         (select count(*) from information_schema.processlist pr
           where pr.user = 'system user' and pr.command like 'Slave%'),
         (select count(*) from information_schema.global_variables g
           where g.variable_name = 'WSREP_ON' and g.variable_value = 'ON'),
         @@log_bin and @@global.binlog_format = 'STATEMENT';
end
//

-- The same: who may do something to a table, or to the fence, that no trigger sees.
create or replace definer = fence_owner@localhost procedure fence.look_at_rights(
    in_schema varchar(64), in_table varchar(64), wanted varchar(400))
  reads sql data sql security definer
begin
  select held.grantee, held.scope,
         group_concat(distinct held.privilege_type order by held.privilege_type separator ', ')
    from (
      select u.grantee, '*.*' as scope, u.privilege_type from information_schema.user_privileges u
      union all
      select s.grantee, concat('`', s.table_schema, '`.*'), s.privilege_type
        from information_schema.schema_privileges s
       where in_schema like s.table_schema
      union all
      select t.grantee, concat('`', t.table_schema, '`.`', t.table_name, '`'), t.privilege_type
        from information_schema.table_privileges t
       where t.table_schema = in_schema and (t.table_name = in_table or in_table = '')
    ) held
   where find_in_set(held.privilege_type, wanted)
     and held.grantee <> '''fence_owner''@''localhost'''
   group by held.grantee, held.scope order by held.grantee, held.scope;
end
//

-- The same: the triggers of a table, and its engine.
create or replace definer = fence_owner@localhost procedure fence.look_at_table(
    in_schema varchar(64), in_table varchar(64))
  reads sql data sql security definer
begin
  select t.engine, g.event_manipulation, g.action_statement, g.definer
    from information_schema.tables t
    left join information_schema.triggers g
      on g.event_object_schema = in_schema and g.event_object_table = in_table
     and g.action_timing = 'BEFORE' and g.trigger_name like 'fence\\_%'
   where t.table_schema = in_schema and t.table_name = in_table
     and t.table_type in ('BASE TABLE', 'SYSTEM VERSIONED');
end
//

-- The same: foreign keys by which rows of a table change without its triggers.
create or replace definer = fence_owner@localhost procedure fence.look_at_cascades(
    in_schema varchar(64), in_table varchar(64))
  reads sql data sql security definer
begin
  select r.constraint_name, r.unique_constraint_schema, r.referenced_table_name,
         r.delete_rule, r.update_rule
    from information_schema.referential_constraints r
   where r.constraint_schema = in_schema and r.table_name = in_table
     and ('CASCADE' in (r.delete_rule, r.update_rule)
       or 'SET NULL' in (r.delete_rule, r.update_rule)
       or 'SET DEFAULT' in (r.delete_rule, r.update_rule));
end
//
