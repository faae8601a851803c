//! What users watch, and what they put on what they hold.

use lockd_client::core::{Update, WatchCore};
use lockd_protocol::client::{ClientFrame, News, Operation, Outcome, Scope, Value};
use lockd_protocol::{EventNumber, Sequence, Token};

use super::client::Want;
use super::invariants::watches::Position;
use super::invariants::{Verdict, Violation, watches};
use super::world::World;

/// A watch of a user.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    core: WatchCore,
    /// On the present connection, if it was started there.
    number: Option<u64>,
    position: Position,
    /// The node that told it something last.
    told_by: Option<usize>,
}

impl Watch {
    fn new(scope: Scope) -> Watch {
        Watch {
            core: WatchCore::new(scope),
            number: None,
            position: Position::default(),
            told_by: None,
        }
    }
}

impl World {
    /// What a user watches from the start of its process on.
    pub(super) fn begin_to_watch(&mut self, client: usize) {
        let one = super::task::lock_name(0);
        let scopes = [Scope::Prefix("lock/".to_owned()), Scope::Lock(one)];
        let wanted = match self.clients[client].user {
            true => self.plan.watches,
            false => 0,
        };
        let watches = scopes.into_iter().take(wanted).map(Watch::new);
        self.clients[client].watches = watches.collect();
    }

    /// There is a new connection: its watches go on there.
    pub(super) fn watch_again(&mut self, client: usize) {
        for at in 0..self.clients[client].watches.len() {
            self.start_watch(client, at);
        }
    }

    fn start_watch(&mut self, client: usize, at: usize) {
        let it = &mut self.clients[client];
        it.last_watch += 1;
        let (number, watch) = (it.last_watch, &mut it.watches[at]);
        let begin = watch.core.start(number);
        watch.number = Some(number);
        if let ClientFrame::Watch { after, .. } = &begin {
            watch.position.asked = match after {
                None => self.judge.changes.log.len() as u64,
                Some(_) => 0,
            };
        }
        self.send(client, begin);
    }

    pub(super) fn watch_hears(
        &mut self,
        client: usize,
        node: usize,
        number: u64,
        news: News,
    ) -> Verdict {
        let watches = &mut self.clients[client].watches;
        let Some(at) = watches.iter().position(|it| it.number == Some(number)) else {
            return Ok(());
        };
        if matches!(news, News::Missed { .. }) {
            self.coverage.hit("watch told of a gap");
        }
        let watch = &mut watches[at];
        let told = watch.core.take(news).map_err(|refusal| {
            let detail = format!("a watch of client {client} is refused: {refusal}");
            Violation::new(watches::NAME, detail)
        })?;
        let Some(update) = told else {
            return Ok(());
        };
        let scope = watch.core.scope().clone();
        let (judge, position) = (&mut self.judge, &mut watch.position);
        let log = &judge.changes.log;
        judge.watches.on_update(&scope, position, &update, log)?;
        let before = watch.told_by.replace(node);
        match update {
            Update::Event(_) => {
                self.coverage.hit("watch told a change");
                if before.is_some_and(|before| before != node) {
                    self.coverage.hit("watch went on at another node");
                }
            }
            Update::Resync(_) => self.coverage.hit("watch got the state anew"),
            _ => {}
        }
        if self.dice.per_mille(10) {
            self.lag_behind(client, at, number);
        }
        Ok(())
    }

    /// Its user does not take what it is told: it wants the state anew.
    fn lag_behind(&mut self, client: usize, at: usize, number: u64) {
        self.clients[client].watches[at].core.forget();
        self.send(client, ClientFrame::Unwatch { watch: number });
        self.start_watch(client, at);
    }

    /// What an acquisition puts on its grants.
    pub(super) fn some_metadata(&mut self) -> Value {
        if self.plan.notes == 0 || !self.dice.per_mille(self.plan.notes) {
            return Value::default();
        }
        let text = format!("{:x}", self.dice.any());
        Value::new(text.as_bytes()).expect("it is short")
    }

    /// Puts something on a grant, which may have ended long ago.
    pub(super) fn put_metadata(
        &mut self,
        client: usize,
        acquire: Sequence,
        token: Token,
    ) -> Verdict {
        if self.plan.notes == 0 || !self.dice.per_mille(self.plan.notes) {
            return Ok(());
        }
        let expect = match self.dice.below(3) {
            0 => None,
            1 => Some(EventNumber(0)),
            _ => Some(self.clients[client].last_version),
        };
        let value = self.some_metadata();
        let operation = Operation::SetMetadata {
            acquire,
            token,
            expect,
            value,
        };
        self.submit(client, operation, Want::PutMetadata)
    }

    pub(super) fn metadata_put(&mut self, client: usize, outcome: &Outcome) {
        match outcome {
            Outcome::MetadataSet { version } => {
                self.clients[client].last_version = *version;
                self.coverage.hit("metadata put");
            }
            Outcome::OtherMetadata { version } => {
                self.clients[client].last_version = *version;
                self.coverage.hit("metadata of another version left alone");
            }
            Outcome::NotHeld => self.coverage.hit("metadata of what is not held refused"),
            _ => {}
        }
    }
}
