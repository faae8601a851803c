//! The bytes of a snapshot, which another build has to read.

use super::*;

#[test]
fn the_bytes_of_version_4_stay_as_they_are() {
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
        identity: format!("identity {nonce}"),
        about: About {
            description: format!("client {nonce}"),
            labels: [("team".to_owned(), "a".to_owned())].into(),
        },
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
    6c6b737461746504000203010201010301010101e8070a6964656e74697479203108636c69656e74203101047465\
    616d016100010202e8070a6964656e74697479203208636c69656e74203201047465616d01610002020a01010103\
    030161010101000000010100000103776879000003016201020200000001010000000001020831302e302e302e31\
    04010201000161000201000000000607";
const GOLDEN_DIGEST: &str = "5680a1517633d245d0830074293bb86b";
