//! One accident of one system: so many holders at once, each with a lock and a row of its own, the
//! accident between reading and writing, and the next holders, who write first.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::forwarder::TcpForwarder;
use super::holder::{Answer, Order};
use super::player::{Cast, Player};
use super::row::{self, Place, Row};
use super::service::{Service, WallClock, forwarded, speaks_tcp};
use super::system::{Accident, System, Way};
use crate::demo::target::{TABLE as GUARDED_TABLE, Target};
use crate::demo::upstream::{Upstream, UpstreamChoice};
use crate::process::ProcessError;

/// How much longer than its lease the next holder waits for a lock, at most.
const GRANT_GRACE: Duration = Duration::from_secs(5);

/// How long a write is given before what is cut is healed: on a connection that is cut it would
/// never be answered.
const WRITE_GRACE: Duration = Duration::from_secs(1);

/// What came of one holder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Trial {
    /// Whether the next holder was granted the lock before the first had written.
    pub granted_meanwhile: bool,
    /// Whether the first holder's library said, right before the write, that the lock was lost.
    pub told: bool,
    /// Code with which its write was refused; `null` if it was accepted.
    pub refused: Option<String>,
    /// Writes that were accepted, by which the counter is not higher.
    pub lost: i64,
}

/// A scene to be played.
pub(super) struct Scene<'a> {
    pub(super) program: &'a Path,
    pub(super) directory: &'a Path,
    pub(super) system: System,
    pub(super) accident: Accident,
    pub(super) trials: usize,
    pub(super) ttl: Duration,
    /// The server that has the rows, unless the locks are there too.
    pub(super) data: &'a str,
}

/// The servers of a scene.
struct Stage {
    service: Service,
    upstream: Option<Upstream>,
    /// How a row's database is reached.
    connection: String,
    table: &'static str,
}

/// One lock with its two holders.
struct Act {
    first: Player,
    forwarder: Option<TcpForwarder>,
    next: Option<Player>,
    /// Whether the next holder has written.
    next_wrote: bool,
    trial: Trial,
}

impl Scene<'_> {
    /// Plays it.
    ///
    /// # Errors
    /// What did not do as it should, or what to install.
    pub(super) async fn play(&self) -> Result<Vec<Trial>, String> {
        let service = Service::start(self.program, self.directory, self.system, self.accident);
        let service = service.await?;
        let mut stage = self.set(service).await?;
        let played = self.play_on(&mut stage).await;
        if let Some(upstream) = stage.upstream.take() {
            upstream.stop().await.map_err(|error| error.to_string())?;
        }
        played
    }

    /// Makes the rows, with a gateway in front of them if there is to be one.
    async fn set(&self, service: Service) -> Result<Stage, String> {
        let data = match self.system.lock_is_with_the_row() {
            true => service.urls().first().cloned().unwrap_or_default(),
            false => self.data.to_owned(),
        };
        let cell = service.cell().filter(|_| self.system.way == Way::Gateway);
        if let Some(cell) = cell {
            let choice = UpstreamChoice::Postgres { url: data };
            let upstream = Upstream::start(&choice, self.program, self.directory, cell).await;
            let upstream = upstream.map_err(|error| error.to_string())?;
            let connection = match upstream.target() {
                Target::Postgres { application } => application.clone(),
                Target::Store { .. } => return Err("there is no table".to_owned()),
            };
            return Ok(Stage {
                service,
                upstream: Some(upstream),
                connection,
                table: GUARDED_TABLE,
            });
        }
        let made = row::make_table(&data, self.trials as u64).await;
        made.map_err(|refusal| format!("cannot make the rows: {refusal}"))?;
        Ok(Stage {
            service,
            upstream: None,
            connection: data,
            table: row::TABLE,
        })
    }

    async fn play_on(&self, stage: &mut Stage) -> Result<Vec<Trial>, String> {
        let cast = Cast {
            program: self.program,
            directory: self.directory,
            system: self.system,
            ttl: self.ttl,
        };
        let mut acts = Vec::new();
        for number in 0..self.trials {
            acts.push(self.begin(&cast, stage, number).await?);
        }
        let held = Instant::now();
        for act in &mut acts {
            act.hold().await.map_err(words)?;
        }
        let struck = Instant::now();
        self.strike(stage, &mut acts).await?;
        self.call_next(&cast, stage, &mut acts).await?;
        let until = match self.accident.outlasts_the_lease() {
            true => struck + self.patience(),
            // Before a lease that nobody renews comes to its ordinary end.
            false => held + self.ttl * 3 / 4,
        };
        self.wait_for_next(&mut acts, struck, until).await?;
        self.wake(stage, &mut acts).await?;
        for (number, act) in acts.iter_mut().enumerate() {
            act.end(self.patience()).await.map_err(words)?;
            let left = Row::connect(&stage.place(number)).await;
            let left = left.map_err(|refusal| format!("cannot read the row: {refusal}"))?;
            let counter = left
                .read(false)
                .await
                .map_err(|refusal| refusal.to_string())?;
            act.trial.lost = act.writes() - counter;
        }
        Ok(acts.into_iter().map(|act| act.trial).collect())
    }

    /// Starts the first holder of a lock.
    async fn begin(&self, cast: &Cast<'_>, stage: &Stage, number: usize) -> Result<Act, String> {
        let mut urls = stage.service.urls();
        let mut place = stage.place(number);
        let mut forwarder = None;
        if self.accident == Accident::Partition && speaks_tcp(self.system) {
            let (started, by_way) = forwarded(&urls).await?;
            if self.system.way == Way::SameConnection {
                place.connection = by_way.first().cloned().unwrap_or_default();
            }
            urls = by_way;
            forwarder = Some(started);
        }
        let clock = match self.accident {
            Accident::HolderClock => Some(WallClock::new("-3600")?),
            _ => None,
        };
        let environment = clock.as_ref().map_or_else(Vec::new, WallClock::environment);
        let name = format!("first-{number}");
        let first = Player::start(cast, &name, &environment, &lock(number), &urls, &place);
        let mut first = first.map_err(words)?;
        first.keep(clock);
        Ok(Act {
            first,
            forwarder,
            next: None,
            next_wrote: false,
            trial: Trial::default(),
        })
    }

    async fn strike(&self, stage: &mut Stage, acts: &mut [Act]) -> Result<(), String> {
        match self.accident {
            Accident::Pause => {
                for act in acts {
                    act.first.pause().map_err(words)?;
                }
                Ok(())
            }
            Accident::Partition => {
                for act in acts {
                    stage.service.cut(&act.first.udp_ports());
                    act.forwarder.iter().for_each(TcpForwarder::cut);
                }
                Ok(())
            }
            Accident::ServerClock => stage.service.jump_ahead(),
            Accident::HolderClock => Ok(()),
            Accident::Failover => stage.service.fail_over().await,
        }
    }

    /// Starts the next holders, who ask for the locks at once.
    async fn call_next(
        &self,
        cast: &Cast<'_>,
        stage: &Stage,
        acts: &mut [Act],
    ) -> Result<(), String> {
        let urls = stage.service.urls();
        for (number, act) in acts.iter_mut().enumerate() {
            let (name, place) = (format!("next-{number}"), stage.place(number));
            let next = Player::start(cast, &name, &[], &lock(number), &urls, &place);
            act.next = Some(next.map_err(words)?);
        }
        for next in acts.iter_mut().filter_map(|act| act.next.as_mut()) {
            next.expect(&Answer::Ready).await.map_err(words)?;
            next.tell(&Order::Acquire).map_err(words)?;
        }
        Ok(())
    }

    /// Waits for the next holders to be granted the locks, and to write.
    async fn wait_for_next(
        &self,
        acts: &mut [Act],
        struck: Instant,
        until: Instant,
    ) -> Result<(), String> {
        if self.accident == Accident::Partition {
            // By then a server has noticed that a client does not answer any more.
            tokio::time::sleep_until((struck + self.ttl).into()).await;
            for act in acts.iter() {
                act.forwarder.iter().for_each(TcpForwarder::give_up);
            }
        }
        for act in acts {
            let within = until.saturating_duration_since(Instant::now());
            act.trial.granted_meanwhile = act.next_writes(within).await.map_err(words)?;
        }
        Ok(())
    }

    /// Has the first holders write.
    async fn wake(&self, stage: &Stage, acts: &mut [Act]) -> Result<(), String> {
        for act in acts.iter_mut() {
            // In the pipe of one that is paused: the first things that it does when it wakes.
            act.first.tell(&Order::Look).map_err(words)?;
            act.first.tell(&Order::Write).map_err(words)?;
            if self.accident == Accident::Pause {
                act.first.resume().map_err(words)?;
            }
        }
        if self.accident == Accident::Partition {
            tokio::time::sleep(WRITE_GRACE).await;
            stage.service.heal();
            for act in acts.iter() {
                act.forwarder.iter().for_each(TcpForwarder::heal);
            }
        }
        for act in acts {
            act.first_writes().await.map_err(words)?;
        }
        Ok(())
    }

    /// How long it may take until a lock is granted whose holder is silent.
    fn patience(&self) -> Duration {
        self.ttl * 2 + GRANT_GRACE
    }
}

impl Stage {
    fn place(&self, number: usize) -> Place {
        Place {
            connection: self.connection.clone(),
            table: self.table.to_owned(),
            id: i64::try_from(number).unwrap_or_default() + 1,
        }
    }
}

impl Act {
    /// The first holder takes the lock, and reads the row.
    async fn hold(&mut self) -> Result<(), ProcessError> {
        self.first.expect(&Answer::Ready).await?;
        self.first.tell(&Order::Acquire)?;
        self.first.expect(&Answer::Granted).await?;
        self.first.read().await.map(|_| ())
    }

    /// The next holder, if it is granted the lock in time, reads and writes. Returns whether it
    /// was.
    async fn next_writes(&mut self, within: Duration) -> Result<bool, ProcessError> {
        let Some(next) = &mut self.next else {
            return Ok(false);
        };
        match next.hear_within(within).await? {
            None => return Ok(false),
            Some(Answer::Granted) => {}
            Some(other) => return Err(next.out_of_place(&other)),
        }
        next.read().await?;
        next.tell(&Order::Write)?;
        next.expect(&Answer::Written).await?;
        self.next_wrote = true;
        Ok(true)
    }

    /// The first holder tells what it sees, and what came of its write.
    async fn first_writes(&mut self) -> Result<(), ProcessError> {
        match self.first.hear().await? {
            Answer::Looked { held } => self.trial.told = !held,
            other => return Err(self.first.out_of_place(&other)),
        }
        match self.first.hear().await? {
            Answer::Written => Ok(()),
            Answer::Refused { code, .. } => {
                self.trial.refused = Some(code);
                Ok(())
            }
            other => Err(self.first.out_of_place(&other)),
        }
    }

    /// Who has waited until now is granted the lock when the first holder gives it back.
    async fn end(&mut self, patience: Duration) -> Result<(), ProcessError> {
        if self.next_wrote {
            return Ok(());
        }
        self.first.tell(&Order::Release)?;
        // It may have lost the lock service; then its lock ends with its lease.
        let _ = self.first.hear().await?;
        if self.next_writes(patience).await? {
            return Ok(());
        }
        let never = "the lock was never granted again".to_owned();
        Err(ProcessError::Refused {
            name: "the lock service".to_owned(),
            answer: never,
        })
    }

    /// Writes that were accepted.
    fn writes(&self) -> i64 {
        i64::from(self.next_wrote) + i64::from(self.trial.refused.is_none())
    }
}

/// The name of a lock, which is one that the gateway's rule covers.
fn lock(number: usize) -> String {
    format!("orders/{}", number + 1)
}

fn words(error: ProcessError) -> String {
    error.to_string()
}
