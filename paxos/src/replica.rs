//! The replica: takes inputs, dispatches them, queues outputs.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::interface::{Config, ConfigError, Input, NotLeader, Output, ProposeError, Role, Status};
use crate::types::{Ballot, ConfirmNumber, Recovered, Slot, Time};

/// One replica of the log.
#[derive(Debug)]
pub struct Replica {
    outputs: VecDeque<Output>,
}

impl Replica {
    /// A replica that goes on where `recovered` ended.
    pub fn new(config: Config, recovered: Recovered, _now: Time) -> Result<Replica, ConfigError> {
        config.validate(&recovered)?;
        Ok(Replica {
            outputs: VecDeque::new(),
        })
    }

    /// Takes one input. Drain [`Replica::poll_output`] afterwards.
    pub fn handle(&mut self, _now: Time, _input: Input) {}

    /// Proposes a payload; the slot it will have, if it is decided.
    pub fn propose(&mut self, _now: Time, _payload: Bytes) -> Result<Slot, ProposeError> {
        Err(ProposeError::NotLeader { leader: None })
    }

    /// Asks for a confirmation of this leadership.
    pub fn confirm(&mut self, _now: Time) -> Result<ConfirmNumber, NotLeader> {
        Err(NotLeader { leader: None })
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to hand in [`Input::Tick`] at the latest.
    pub fn next_timer(&self) -> Time {
        Time(u64::MAX)
    }

    /// The role.
    pub fn role(&self) -> Role {
        Role::Follower { leader: None }
    }

    /// A view for people and metrics.
    pub fn status(&self) -> Status {
        Status {
            role: self.role(),
            promised: Ballot::NONE,
            ballot: Ballot::NONE,
            first: Slot(1),
            end: Slot::NONE,
            decided: Slot::NONE,
            peers: Vec::new(),
            write_in_flight: false,
        }
    }

    /// Whether no own log write is in flight.
    pub fn idle_for_proposals(&self) -> bool {
        true
    }
}
