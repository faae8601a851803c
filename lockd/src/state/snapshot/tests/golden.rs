//! The bytes of a snapshot, which another build has to read.

use super::*;

#[test]
fn the_bytes_of_version_3_stay_as_they_are() {
    let mut state = State::default();
    state.begin_leadership(leadership(3));
    let operations = [
        (1, 1, acquire("a")),
        (2, 1, acquire("a")),
        (1, 2, with_metadata(acquire("b"))),
        (
            2,
            2,
            Operation::Break {
                lock: LockName::new("a").expect("a lock name"),
                reason: "why".to_owned(),
                at_once: false,
            },
        ),
    ];
    let opens = [1, 2].map(|nonce| Command::Open {
        nonce: Nonce(nonce),
        ttl: Millis(1000),
        label: format!("client {nonce}"),
    });
    let requests = operations.map(|(session, sequence, operation)| Command::Request {
        session: SessionId(session),
        sequence: Sequence(sequence),
        acknowledged: Sequence(0),
        operation,
    });
    for command in opens.into_iter().chain(requests) {
        state.apply(command, &mut Vec::new());
    }
    let bytes = encode(&state);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN);
    assert_eq!(format!("{:032x}", state.digest()), GOLDEN_DIGEST);
    assert_eq!(decode(&bytes), Ok(state));
}

fn acquire(lock: &str) -> Operation {
    let lock = LockName::new(lock).expect("a lock name");
    Operation::Acquire(Acquire {
        ticket: true,
        ..Acquire::one(lock, Mode::Exclusive, Wait::Forever)
    })
}

fn with_metadata(operation: Operation) -> Operation {
    match operation {
        Operation::Acquire(acquire) => Operation::Acquire(Acquire {
            metadata: Value::new(b"10.0.0.1").expect("short"),
            ..acquire
        }),
        other => other,
    }
}

const GOLDEN: &str = "\
    6c6b737461746503000203010201010301010101e80708636c69656e74203100010202e80708636c69656e742032\
    0002020a010101030301610101010000000101000001037768790000030162010202000000010100000000010208\
    31302e302e302e3104010201000161000201000000000607";
const GOLDEN_DIGEST: &str = "0d25caa4431113864b541d1ec112f862";
