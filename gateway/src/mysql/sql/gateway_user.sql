-- The account that the gateway logs in as.
create user if not exists {user}@'%'{identified}
//
grant execute on procedure fence.identify to {user}@'%'
//
grant execute on procedure fence.admit to {user}@'%'
//
grant execute on procedure fence.evict to {user}@'%'
//
grant execute on procedure fence.give_back to {user}@'%'
//
grant execute on procedure fence.begin_era to {user}@'%'
//
grant execute on procedure fence.set_horizon to {user}@'%'
//
grant execute on procedure fence.seed to {user}@'%'
//
grant execute on procedure fence.retire to {user}@'%'
//
grant execute on procedure fence.marks to {user}@'%'
//
grant execute on procedure fence.look_at_server to {user}@'%'
//
grant execute on procedure fence.look_at_rights to {user}@'%'
//
grant execute on procedure fence.look_at_table to {user}@'%'
//
grant execute on procedure fence.look_at_cascades to {user}@'%'
//
