//! The few messages of etcd's version 3 protocol that a lock needs, with the field numbers of its
//! `rpc.proto` and `kv.proto`. Fields that are not used here are left out; a `oneof` of which one
//! kind is used is an optional field, which is the same on the wire.

use prost::Message;

/// Smallest value first.
pub(super) const ASCENDING: i32 = 1;
/// Largest value first.
pub(super) const DESCENDING: i32 = 2;
/// Sort by the revision at which a key was created.
pub(super) const BY_CREATION: i32 = 2;
/// Compare the revision at which a key was created.
pub(super) const CREATION: i32 = 1;
/// Compare for equality.
pub(super) const EQUAL: i32 = 0;
/// A key was deleted.
pub(super) const DELETE: i32 = 1;

/// What comes with every answer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Header {
    /// The member that answers.
    #[prost(uint64, tag = "2")]
    pub(super) member_id: u64,
    /// The store's revision.
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

/// A key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    /// Its name.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The revision at which it was created.
    #[prost(int64, tag = "2")]
    pub(super) create_revision: i64,
}

/// Reads keys.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The first key that is not meant; nothing for one key.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    /// Most keys.
    #[prost(int64, tag = "3")]
    pub(super) limit: i64,
    /// In which order.
    #[prost(int32, tag = "5")]
    pub(super) sort_order: i32,
    /// By what.
    #[prost(int32, tag = "6")]
    pub(super) sort_target: i32,
    /// None that was created later.
    #[prost(int64, tag = "13")]
    pub(super) max_create_revision: i64,
}

/// Keys.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeResponse {
    /// At which revision.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    /// The keys.
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
}

/// Sets a key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PutRequest {
    /// Which.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The lease with which it ends.
    #[prost(int64, tag = "3")]
    pub(super) lease: i64,
}

/// Deletes keys.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteRangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The first key that is not meant; nothing for one key.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
}

/// Keys were deleted.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteRangeResponse {
    /// How many.
    #[prost(int64, tag = "2")]
    pub(super) deleted: i64,
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Compare {
    /// How it is compared.
    #[prost(int32, tag = "1")]
    pub(super) result: i32,
    /// What is compared.
    #[prost(int32, tag = "2")]
    pub(super) target: i32,
    /// Of which key.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    /// With this revision; 0 for a key that is not there.
    #[prost(int64, optional, tag = "5")]
    pub(super) create_revision: Option<i64>,
}

/// A step of a transaction: one of these.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestOp {
    /// Reads.
    #[prost(message, optional, tag = "1")]
    pub(super) range: Option<RangeRequest>,
    /// Sets.
    #[prost(message, optional, tag = "2")]
    pub(super) put: Option<PutRequest>,
    /// Deletes.
    #[prost(message, optional, tag = "3")]
    pub(super) delete: Option<DeleteRangeRequest>,
}

/// What came of a step.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ResponseOp {
    /// What was read.
    #[prost(message, optional, tag = "1")]
    pub(super) range: Option<RangeResponse>,
}

/// Everything or nothing.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnRequest {
    /// If all of this is so,
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    /// do this,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
    /// or else this.
    #[prost(message, repeated, tag = "3")]
    pub(super) failure: Vec<RequestOp>,
}

/// What came of a transaction.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnResponse {
    /// At which revision.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    /// Whether it was so.
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
    /// What came of each step.
    #[prost(message, repeated, tag = "3")]
    pub(super) responses: Vec<ResponseOp>,
}

/// What is sent to a stream of watches.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchRequest {
    /// Begins one.
    #[prost(message, optional, tag = "1")]
    pub(super) create: Option<WatchCreateRequest>,
}

/// Tells what happens to a key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchCreateRequest {
    /// Which.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// From this revision on.
    #[prost(int64, tag = "3")]
    pub(super) start_revision: i64,
}

/// What happened.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchResponse {
    /// Whether there is nothing more to come.
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    /// Why.
    #[prost(string, tag = "6")]
    pub(super) cancel_reason: String,
    /// What happened.
    #[prost(message, repeated, tag = "11")]
    pub(super) events: Vec<Event>,
}

/// Something that happened to a key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// What.
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
}

/// Makes a lease.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseGrantRequest {
    /// For so many seconds.
    #[prost(int64, tag = "1")]
    pub(super) ttl: i64,
}

/// A lease.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseGrantResponse {
    /// Which.
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// For so many seconds, which may be more than was asked for.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

/// Names a lease: to end it, or to prolong it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

/// A lease was prolonged.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseKeepAliveResponse {
    /// By so many seconds; 0 if there is no such lease any more.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

/// Asks for nothing, or tells nothing that matters here.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Nothing {}

/// How a member is.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusResponse {
    /// Who it is.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    /// Who leads, as far as it knows; 0 if nobody does.
    #[prost(uint64, tag = "4")]
    pub(super) leader: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_on_the_wire_as_etcd_has_them() {
        let compare = Compare {
            result: EQUAL,
            target: CREATION,
            key: b"k".to_vec(),
            create_revision: Some(0),
        };
        // A revision of 0 is sent: it is one of several kinds, and tells which.
        assert_eq!(compare.encode_to_vec(), b"\x10\x01\x1a\x01k\x28\x00");
        let range = RangeRequest {
            key: b"a".to_vec(),
            range_end: b"b".to_vec(),
            limit: 1,
            sort_order: DESCENDING,
            sort_target: BY_CREATION,
            max_create_revision: 5,
        };
        let expected = b"\x0a\x01a\x12\x01b\x18\x01\x28\x02\x30\x02\x68\x05";
        assert_eq!(range.encode_to_vec(), expected);
        let put = RequestOp {
            put: Some(PutRequest {
                key: b"a".to_vec(),
                lease: 7,
            }),
            ..RequestOp::default()
        };
        assert_eq!(put.encode_to_vec(), b"\x12\x05\x0a\x01a\x18\x07");
        let answer: WatchResponse = Message::decode(&b"\x5a\x02\x08\x01"[..]).unwrap();
        assert_eq!(answer.events[0].kind, DELETE);
    }
}
