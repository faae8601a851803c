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
