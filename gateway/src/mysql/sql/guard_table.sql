-- {table}: each row that is {event_done} needs {pattern}. The trigger locks the row of the
-- writer's own connection to the end of its transaction. Exclusively, because XA PREPARE gives up
-- share locks before the transaction takes effect; under LOCK TABLES only sharing is possible
-- (1442), and XA is not. It is written without comments: the command-line client takes them out.
grant trigger on {quoted} to fence_owner@localhost
//
create or replace definer = fence_owner@localhost trigger {trigger}
  before {event} on {quoted} for each row
{body}
//
