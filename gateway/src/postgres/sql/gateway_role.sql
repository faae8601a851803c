
-- The role that the gateway logs in as.
do $lockd$ begin
  if not exists (select from pg_roles where rolname = {role_literal}) then
    create role {role} login{password};
  end if;
end $lockd$;
grant connect on database {database} to {role};
grant usage on schema fence to {role};
grant execute on function fence.identify, fence.admit, fence.evict, fence.give_back, fence.forget,
  fence.begin_era, fence.set_horizon, fence.seed, fence.retire, fence.marks,
  fence.is_behind to {role};
