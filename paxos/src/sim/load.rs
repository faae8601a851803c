//! What clients do: they propose commands, and ask leaders to confirm themselves.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::interface::{ProposeError, Role};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::sim::cluster::{Cluster, Event};
use crate::sim::coverage::Branch;
use crate::sim::fault::Fault;
use crate::sim::invariants::Violation;

/// Commands whose payloads share one piece of memory.
const SHARED_COMMANDS: usize = 64 * 1024;

/// The numbers from 0, eight bytes each. A payload is a piece of it that begins with the command's
/// number; so nothing is allocated or counted when an entry is copied.
static NUMBERS: LazyLock<&'static [u8]> = LazyLock::new(|| {
    let numbers = (0..SHARED_COMMANDS as u64 + 64).flat_map(u64::to_le_bytes);
    numbers.collect::<Vec<u8>>().leak()
});

/// The payload of a command: its number, and some bytes more.
fn payload(number: u64, more: usize) -> Bytes {
    let from = 8 * number as usize;
    if let Some(shared) = NUMBERS.get(from..from + 8 + more) {
        return Bytes::from_static(shared);
    }
    let mut own = number.to_le_bytes().to_vec();
    own.resize(8 + more, 7);
    Bytes::from(own)
}

impl Cluster {
    pub(super) fn propose_somewhere(&mut self) -> Result<(), Violation> {
        let count = self.dice.between(1, self.plan.proposals_at_once);
        if let Some(node) = self.draw_leader() {
            self.propose_at(node, count)?;
        }
        let delay = self.dice.around(self.plan.propose_every_micros);
        self.schedule(self.now + delay, Event::Propose);
        Ok(())
    }

    pub(super) fn propose_at(&mut self, node: usize, count: u64) -> Result<(), Violation> {
        let local = self.nodes[node].clock.local(self.now);
        for _ in 0..count {
            let Some(replica) = &mut self.nodes[node].replica else {
                break;
            };
            let number = self.invariants.one_value.next_command();
            let more = match self.plan.payload_bytes {
                0 => 0,
                most => self.dice.between(0, most),
            };
            match replica.propose(local, payload(number, more as usize)) {
                Ok(_) => self.invariants.one_value.proposed(),
                Err(refused) => {
                    if refused == ProposeError::Busy {
                        self.report.coverage.branch(Branch::WindowFull);
                    }
                    break;
                }
            }
        }
        self.drain(node)
    }

    /// Proposes what no replica may take.
    pub(super) fn propose_too_much(&mut self, node: usize) -> Result<(), Violation> {
        let local = self.nodes[node].clock.local(self.now);
        let Some(replica) = &mut self.nodes[node].replica else {
            return Ok(());
        };
        let refused = replica.propose(local, vec![0; PAYLOAD_BYTES_MAX + 1].into());
        match refused {
            Err(ProposeError::TooLarge { .. }) => {
                self.report.coverage.branch(Branch::OversizedRefused);
            }
            Err(_) => {}
            Ok(slot) => {
                let detail = format!("an oversized proposal was taken for slot {slot}");
                return Err(Violation::new(
                    "what a replica holds and sends is bounded",
                    detail,
                ));
            }
        }
        self.report.coverage.fault(Fault::OversizedProposal);
        self.drain(node)
    }

    pub(super) fn confirm_at(&mut self, node: usize) -> Result<(), Violation> {
        let local = self.nodes[node].clock.local(self.now);
        let Some(replica) = &mut self.nodes[node].replica else {
            return Ok(());
        };
        let Role::Leader { leadership, .. } = replica.role() else {
            return Ok(());
        };
        if let Ok(number) = replica.confirm(local) {
            let highest = self.invariants.one_value.highest_ballot();
            let question = self.invariants.confirm.ask(leadership, number, highest);
            self.nodes[node].questions.push(question);
        }
        self.drain(node)
    }
}
