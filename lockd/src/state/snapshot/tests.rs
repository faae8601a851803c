//! Snapshots of states that random commands made, and of none.

mod golden;

use super::*;
use crate::state::Effect;
use crate::state::command::Command;
use crate::state::lock::{Hold, Lock, More};
use lockd_protocol::Mode;
use lockd_protocol::client::{
    About, Acquire, Metadata, Operation, Owner, Value, Wait, Want, Wants,
};
use paxos::{Ballot, Epoch, NodeId};

/// Random commands (splitmix64: Steele, Lea, Flood, 2014), often such as make sense.
struct Commands {
    random: u64,
    round: u64,
}

impl Commands {
    fn new(seed: u64) -> Commands {
        let random = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
        Commands { random, round: 0 }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn session(&mut self) -> SessionId {
        SessionId(1 + self.below(6))
    }

    fn lock(&mut self) -> LockName {
        let name = format!("lock/{}", self.below(2));
        LockName::new(&name).expect("a lock name")
    }

    fn token(&mut self, state: &State, lock: &LockName) -> Token {
        let held = state.locks.get(lock).and_then(|lock| lock.holds.first());
        held.filter(|_| self.below(8) > 0)
            .map_or(Token(self.below(30)), |hold| hold.token)
    }

    fn mode(&mut self) -> Mode {
        [Mode::Exclusive, Mode::Shared, Mode::Permit { of: 2 }][self.below(3) as usize]
    }

    fn acquire(&mut self) -> Acquire {
        let owner = Owner {
            name: format!("owner {}", self.below(2)),
            reentries: 1 + self.below(3) as u32,
        };
        if self.below(3) == 0 {
            let lock = LockName::new("own").expect("a lock name");
            return Acquire {
                owner: Some(owner),
                ..Acquire::one(lock, Mode::Shared, Wait::Try)
            };
        }
        let (lock, mode) = (self.lock(), self.mode());
        let mut wants = vec![Want { lock, mode }];
        let (lock, mode) = (self.lock(), self.mode());
        wants.extend((self.below(3) == 0).then_some(Want { lock, mode }));
        let wants = match self.below(3) {
            0 => Wants::All(wants),
            1 => Wants::Any(wants),
            _ => Wants::One(wants.swap_remove(0)),
        };
        Acquire {
            wants,
            wait: [Wait::Try, Wait::Forever, Wait::For(Millis(9))][self.below(3) as usize],
            ticket: self.below(2) == 0,
            owner: (self.below(2) == 0).then_some(owner),
            barge: self.below(8) == 0,
            delay: Millis(self.below(3) * 5),
            metadata: self.value(),
        }
    }

    /// None, half of the time.
    fn value(&mut self) -> Value {
        let bytes = self.below(6).saturating_sub(3) * 3;
        Value::new(&b"a\0\xff567"[..bytes as usize]).expect("short")
    }

    /// Of an acquisition that is held, most of the time.
    fn held(&mut self, state: &State) -> (Sequence, Token) {
        let session = SessionId(1 + self.below(6));
        let held = state.sessions.get(&session).and_then(|session| {
            let mut acquisitions = session.acquisitions().iter();
            acquisitions.find_map(|(acquire, held)| Some((*acquire, held.token()?)))
        });
        held.filter(|_| self.below(8) > 0)
            .unwrap_or((Sequence(self.below(20)), Token(self.below(30))))
    }

    fn about(&mut self) -> About {
        let labels = (0..self.below(3)).map(|n| (format!("key/{n}"), self.below(9).to_string()));
        About {
            labels: labels.collect(),
            description: format!("client {}", self.below(9)),
        }
    }

    fn operation(&mut self, state: &State) -> Operation {
        let lock = self.lock();
        match self.below(12) {
            0..=5 => Operation::Acquire(self.acquire()),
            6 => {
                let (acquire, token) = self.held(state);
                Operation::Release { acquire, token }
            }
            7 => {
                let (acquire, token) = self.held(state);
                let ticket = self.below(2) == 0;
                Operation::Downgrade {
                    acquire,
                    token,
                    ticket,
                }
            }
            8 | 9 => Operation::Break {
                lock,
                reason: "x\n"[..1 + self.below(20) as usize / 19].to_owned(),
                at_once: self.below(2) == 0,
            },
            10 => Operation::Cancel {
                acquire: Sequence(self.below(20)),
            },
            _ => match self.below(8) {
                4.. => {
                    let (acquire, token) = self.held(state);
                    let expect = (self.below(2) == 0).then(|| EventNumber(self.below(9)));
                    let value = self.value();
                    Operation::SetMetadata {
                        acquire,
                        token,
                        expect,
                        value,
                    }
                }
                0 => Operation::Close,
                _ => Operation::Cancel {
                    acquire: Sequence(1 + self.below(1500)),
                },
            },
        }
    }

    /// A command, or a new leadership.
    fn next(&mut self, state: &State) -> Option<Command> {
        let leadership = state.leadership.unwrap_or_else(|| leadership(0));
        Some(match self.below(20) {
            0 => return None,
            1 | 2 => Command::Open {
                nonce: Nonce(self.below(9).into()),
                ttl: Millis(400 + self.below(5000)),
                identity: format!("identity {}", self.below(2)),
                about: self.about(),
            },
            3 => Command::Expire {
                session: self.session(),
                leadership,
            },
            4 => Command::TimeOut {
                session: self.session(),
                acquire: Sequence(1 + self.below(20)),
                leadership,
            },
            5 => {
                let lock = self.lock();
                let token = self.token(state, &lock);
                Command::FinishBreak {
                    lock,
                    token,
                    leadership,
                }
            }
            6 => {
                let mut closed = state.closed.iter();
                match closed.next() {
                    Some((lock, closed)) => Command::Reopen {
                        lock: lock.clone(),
                        token: closed.token,
                        leadership,
                    },
                    None => return None,
                }
            }
            7 if self.below(3) == 0 => Command::Silent {
                session: self.session(),
                spent: Millis(self.below(6000)),
                leadership,
            },
            8 if self.below(6) == 0 => Command::Heard {
                session: self.session(),
                leadership,
            },
            _ => {
                let (session, sequence) = (self.session(), self.below(30));
                Command::Request {
                    session,
                    sequence: Sequence(sequence),
                    acknowledged: Sequence(sequence.saturating_sub(self.below(30))),
                    operation: self.operation(state),
                }
            }
        })
    }

    fn apply_some(&mut self, state: &mut State) {
        for _ in 0..self.below(80) {
            let command = self.next(state);
            self.apply(state, command);
        }
    }

    fn apply(&mut self, state: &mut State, command: Option<Command>) -> Vec<Effect> {
        let mut effects = Vec::new();
        match command {
            Some(command) => state.apply(command, &mut effects),
            None => {
                self.round += 1;
                state.begin_leadership(leadership(self.round));
            }
        }
        effects
    }
}

fn leadership(round: u64) -> Ballot {
    Ballot {
        epoch: Epoch::FIRST,
        round,
        node: NodeId(1),
    }
}

fn encode(state: &State) -> Vec<u8> {
    state.encode().flatten().collect()
}

fn decode(bytes: &[u8]) -> Result<State, SnapshotError> {
    let mut decoder = Decoder::default();
    decoder.feed(bytes)?;
    decoder.finish()
}

/// A state with some of everything in it.
fn full(seed: u64) -> State {
    let (mut commands, mut state) = (Commands::new(seed), State::default());
    for _ in 0..5 {
        commands.apply_some(&mut state);
    }
    state
}

#[test]
fn a_decoded_state_is_the_state_and_goes_on_as_it_does() {
    let mut seen = [0usize; 10];
    for seed in 0..3000 {
        let (mut commands, mut state) = (Commands::new(seed), State::default());
        commands.apply_some(&mut state);
        let mut decoded = decode(&encode(&state)).expect("it was just encoded");
        assert_eq!(decoded, state, "seed {seed}");
        assert_eq!(decoded.digest(), state.digest(), "seed {seed}");
        for _ in 0..commands.below(80) {
            let command = commands.next(&state);
            let round = commands.round;
            let expected = commands.apply(&mut state, command.clone());
            commands.round = round;
            assert_eq!(
                commands.apply(&mut decoded, command),
                expected,
                "seed {seed}"
            );
        }
        assert_eq!(decoded, state, "seed {seed}");
        let sessions = state.sessions.values();
        let queue = |lock: &Lock| lock.queue.len();
        seen[0] += state.sessions.len();
        seen[1] += state.locks.len();
        seen[2] += state.locks.values().map(queue).sum::<usize>();
        seen[3] += sessions.clone().map(|s| s.answers().len()).sum::<usize>();
        seen[4] += sessions.filter(|session| session.breaking > 0).count();
        seen[5] += usize::from(state.locks.values().any(|lock| queue(lock) > 2));
        seen[6] += state.closed.len();
        seen[9] += state.silent.len();
        let holds = state.locks.values().flat_map(|lock| &lock.holds);
        seen[7] += holds.filter(|hold| hold.times() > 1).count();
        let holds = state.locks.values().flat_map(|lock| &lock.holds);
        seen[9] += holds.filter(|hold| hold.metadata().is_some()).count();
        seen[8] += state
            .locks
            .values()
            .filter(|lock| lock.holds.len() > 1)
            .count();
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}

#[test]
fn chunks_may_be_cut_anywhere() {
    for seed in 0..40 {
        let state = full(seed);
        let mut commands = Commands::new(seed);
        let bytes = encode(&state);
        let (mut decoder, mut left) = (Decoder::default(), bytes.as_slice());
        while !left.is_empty() {
            let longest = if seed % 2 == 0 { 2 } else { 300 };
            let (now, later) = left.split_at(left.len().min(commands.below(longest) as usize));
            decoder.feed(now).expect("a part of a snapshot");
            left = later;
        }
        assert_eq!(decoder.finish(), Ok(state));
    }
}

#[test]
fn a_large_state_comes_in_small_chunks() {
    let mut state = State::default();
    for nonce in 0..5000 {
        let (ttl, about) = (Millis(1000), About::described("x".repeat(200)));
        state.apply(
            Command::Open {
                nonce: Nonce(nonce),
                ttl,
                identity: "client".to_owned(),
                about,
            },
            &mut Vec::new(),
        );
    }
    let chunks: Vec<Vec<u8>> = state.encode().collect();
    assert!(chunks.len() > 20);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.len() < CHUNK_BYTES + ITEM_BYTES_MAX)
    );
    assert_eq!(decode(&chunks.concat()), Ok(state));
}

#[test]
fn a_snapshot_that_ends_too_early_or_too_late_is_refused() {
    let bytes = encode(&full(7));
    for end in 0..bytes.len() {
        let error = decode(&bytes[..end]).expect_err("it is cut off");
        assert!(
            matches!(error, SnapshotError::Truncated { .. }),
            "{end}: {error}"
        );
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(decode(&longer), Err(SnapshotError::Trailing));
}

#[test]
fn a_snapshot_of_another_version_or_of_something_else_is_refused_by_name() {
    let mut bytes = encode(&full(7));
    bytes[MAGIC.len()] = VERSION + 1;
    let error = decode(&bytes).expect_err("a later version");
    assert_eq!(error, SnapshotError::Version { found: VERSION + 1 });
    assert!(error.to_string().contains("start the version"), "{error}");
    assert_eq!(decode(b"something else"), Err(SnapshotError::Foreign));
}

#[test]
fn whatever_the_bytes_are_they_are_refused_or_are_a_state_that_could_have_been() {
    let mut refused = 0;
    for seed in 0..20 {
        let bytes = encode(&full(seed));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            match decode(&damaged) {
                Ok(mut state) => {
                    crate::state::tests::check(&state);
                    Commands::new(at as u64).apply_some(&mut state);
                    crate::state::tests::check(&state);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_length_that_is_a_lie_allocates_nothing() {
    let mut bytes = encode(&State::default());
    bytes.truncate(MAGIC.len() + 1 + 1 + 5);
    // A session whose identity has 2^42 bytes, of which some come.
    bytes.extend([1, 1, 1, 0x80, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    let mut decoder = Decoder::default();
    decoder.feed(&bytes).expect("more may come");
    let error = decoder.feed(&[b'x'; ITEM_BYTES_MAX]).expect_err("too long");
    assert!(
        matches!(error, SnapshotError::Malformed { item: 1, .. }),
        "{error}"
    );
}

/// The bytes of an item.
fn bytes_of(item: &Item<'_>) -> Vec<u8> {
    postcard::to_stdvec(item).expect("encodes")
}

#[test]
fn items_that_contradict_each_other_are_refused() {
    let head = [MAGIC.as_slice(), &[VERSION]].concat();
    let counters = Item::Counters {
        last_session: SessionId(2),
        last_token: Token(2),
        last_place: 2,
        last_event: EventNumber(2),
        leadership: None,
    };
    let session = |id, nonce, ttl| Item::Session {
        id: SessionId(id),
        nonce: Nonce(nonce),
        ttl: Millis(ttl),
        identity: "client",
        about: Cow::Owned(About::default()),
        floor: Sequence(5),
    };
    let answer = |sequence| Item::Answer {
        sequence: Sequence(sequence),
        outcome: Cow::Owned(Outcome::Released),
    };
    let name = |name| LockName::new(name).expect("a name");
    let queued = |session, place| Item::Waiter {
        place,
        waiter: Cow::Owned(Waiter {
            session: SessionId(session),
            sequence: Sequence(10 + place),
            acquire: Acquire::one(name("a"), Mode::Exclusive, Wait::Forever),
        }),
    };
    let grant = |session, token| Hold {
        session: SessionId(session),
        acquire: Sequence(10 + token),
        token: Token(token),
        mode: Mode::Exclusive,
        slot: 0,
        want: 0,
        ticket: false,
        more: None,
    };
    let item = |lock, hold| Item::Hold {
        lock: name(lock),
        hold: Cow::Owned(hold),
    };
    let hold = |lock, session, token| item(lock, grant(session, token));
    let permit = |token, slot| {
        let mode = Mode::Permit { of: 2 };
        item(
            "s",
            Hold {
                mode,
                slot,
                ..grant(1, token)
            },
        )
    };
    let more = |more| {
        item(
            "a",
            Hold {
                more: Some(Box::new(more)),
                ..grant(1, 1)
            },
        )
    };
    let closed = |lock, token, span| Item::Closed {
        lock: name(lock),
        closed: Closed {
            token: Token(token),
            span: Millis(span),
        },
    };
    let one = || session(1, 1, 1000);
    let silent = |session, spent| Item::Silent {
        session: SessionId(session),
        spent: Millis(spent),
    };
    let end = |items| Item::End { items };
    let same_number = Hold {
        acquire: Sequence(11),
        ..grant(1, 1)
    };
    let cases: Vec<(Vec<Item<'_>>, &str)> = vec![
        (vec![counters], "in this order"),
        (vec![one(), one()], "in order"),
        (vec![one(), session(2, 1, 1000)], "nonce"),
        (vec![session(3, 1, 1000)], "newer"),
        (vec![session(1, 1, 1)], "TTL"),
        (vec![answer(6)], "no session"),
        (vec![one(), answer(5)], "window"),
        (vec![one(), answer(5000)], "window"),
        (vec![one(), answer(7), answer(7)], "window"),
        (vec![hold("a", 1, 1)], "no session"),
        (vec![one(), hold("a", 1, 3)], "never given out"),
        (vec![one(), hold("b", 1, 1), hold("a", 1, 2)], "in order"),
        (vec![one(), hold("a", 1, 1), hold("a", 1, 2)], "exclude"),
        (vec![one(), permit(1, 1), permit(2, 1)], "exclude"),
        (vec![one(), permit(1, 2)], "permit"),
        (
            vec![one(), item("a", same_number), hold("b", 1, 1)],
            "twice",
        ),
        (vec![one(), hold("a", 1, 1), one()], "in this order"),
        (vec![one(), queued(2, 2)], "no session"),
        (vec![one(), queued(1, 3)], "place"),
        (vec![one(), hold("a", 1, 1), queued(1, 1)], "taken"),
        (vec![one(), queued(1, 1), end(3)], "free"),
        (vec![one(), answer(11), hold("a", 1, 1)], "taken"),
        (
            vec![
                one(),
                more(More {
                    reentries: vec![Sequence(12)],
                    ..More::default()
                }),
            ],
            "without owner",
        ),
        (
            vec![
                one(),
                more(More {
                    delay: Millis(60_001),
                    ..More::default()
                }),
            ],
            "delay",
        ),
        (
            vec![
                one(),
                more(More {
                    metadata: Some(Metadata {
                        version: EventNumber(3),
                        value: Value::default(),
                    }),
                    ..More::default()
                }),
            ],
            "version",
        ),
        (vec![closed("a", 1, 0)], "longer"),
        (vec![closed("a", 9, 1)], "no grant"),
        (vec![closed("b", 1, 1), closed("a", 1, 1)], "in order"),
        (vec![silent(1, 1)], "does not exist"),
        (vec![one(), silent(1, 1001)], "longer than its TTL"),
        (vec![one(), silent(1, 1), silent(1, 2)], "in order"),
        (
            vec![one(), silent(1, 1), closed("a", 1, 1)],
            "in this order",
        ),
        (vec![one(), end(7)], "another number"),
    ];
    for (items, expected) in cases {
        let counters = Item::Counters {
            last_session: SessionId(2),
            last_token: Token(2),
            last_place: 2,
            last_event: EventNumber(2),
            leadership: None,
        };
        let items = std::iter::once(counters).chain(items);
        let bytes: Vec<u8> = head
            .iter()
            .copied()
            .chain(items.flat_map(|item| bytes_of(&item)))
            .collect();
        match decode(&bytes) {
            Err(SnapshotError::Impossible { what, .. }) if what.contains(expected) => {}
            other => panic!("{expected}: {other:?}"),
        }
    }
}
