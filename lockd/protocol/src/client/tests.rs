//! Golden bytes of frames: what another build wrote is to be read.

use super::*;
use crate::frame;

#[test]
fn the_members_frame_has_the_bytes_it_always_had() {
    let members = vec![
        (NodeId(2), "10.0.0.2:7400".to_owned()),
        (NodeId(300), "h:1".to_owned()),
    ];
    let frame = NodeFrame::Members {
        epoch: 258,
        members,
    };
    let mut bytes = Vec::new();
    frame::encode(&frame, &mut bytes).unwrap();
    let golden: &[u8] = b"\x19\x00\x00\x00\x08\x82\x02\x02\x02\x0d10.0.0.2:7400\xac\x02\x03h:1";
    assert_eq!(bytes, golden);
    assert_eq!(frame::decode::<NodeFrame>(&golden[4..]), Ok(frame));
}

#[test]
fn the_news_of_a_watch_have_the_bytes_they_always_had() {
    let event = Event {
        number: EventNumber(300),
        change: Change::MetadataSet,
        holder: Holder {
            lock: crate::LockName::new("a").unwrap(),
            token: crate::Token(258),
            session: SessionId(3),
            mode: crate::Mode::Permit { of: 4 },
            slot: 1,
            metadata: Some(Metadata {
                version: EventNumber(300),
                value: Value::new(b"x\xff").unwrap(),
            }),
        },
    };
    let news = News::Event(event);
    let frame = NodeFrame::News { watch: 7, news };
    let mut bytes = Vec::new();
    frame::encode(&frame, &mut bytes).unwrap();
    let golden: &[u8] =
        b"\x14\x00\x00\x00\x0a\x07\x03\xac\x02\x05\x01a\x82\x02\x03\x02\x04\x01\x01\xac\x02\x02x\xff";
    assert_eq!(bytes, golden);
    assert_eq!(frame::decode::<NodeFrame>(&golden[4..]), Ok(frame));
}
