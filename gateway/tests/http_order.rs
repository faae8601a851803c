//! The order that an HTTP gateway keeps, with a server that answers late, never, or not to the end:
//! who waits, who is kept out, and what ends a doubt.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::http::{
    Act, HttpBed, Origin, Raw, Reply, call, call_until_ready, header, is_problem, plain_with,
    ready, request,
};
use common::{Running, ticket};
use tokio::sync::Notify;

#[tokio::test]
async fn a_newer_holder_waits_for_the_final_answer_to_an_older_one() {
    let go_on = Arc::new(Notify::new());
    let held = Arc::clone(&go_on);
    let origin = Origin::start(move |first| match first {
        "PUT /orders/1 HTTP/1.1" => Act::AnswerLate(Arc::clone(&held)),
        _ => Act::Answer(200),
    });
    let origin = origin.await;
    let bed = HttpBed::before(origin.address);
    let gateway = bed.gateway().await;
    ready(&gateway).await;
    let (old, new) = (ticket("orders/1", 100), ticket("orders/1", 101));
    let at = gateway.address;
    let first = tokio::spawn(async move { call(at, "PUT", "/orders/1", Some(&old), "old").await });
    while !origin.requests().iter().any(|text| text.starts_with("PUT")) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let second =
        tokio::spawn(async move { call(at, "PUT", "/orders/1/x", Some(&new), "new").await });
    // Its token is known: older ones are refused from now on, though it waits itself.
    let old = ticket("orders/1", 100);
    while call(at, "PUT", "/orders/1/y", Some(&old), "older")
        .await
        .status
        != 412
    {}
    // What came before it was refused is done already.
    let before: Vec<_> = origin
        .effects()
        .into_iter()
        .filter(|body| body != "older")
        .collect();
    assert!(before.is_empty(), "{before:?}");
    assert!(!second.is_finished());
    go_on.notify_one();
    assert_eq!(first.await.unwrap().status, 204);
    assert_eq!(second.await.unwrap().status, 200);
    let effects: Vec<_> = origin
        .effects()
        .into_iter()
        .filter(|body| body != "older")
        .collect();
    assert_eq!(effects, ["old", "new"]);
}

/// Whether a newer holder of `orders/1` is admitted, and what it is told if not.
async fn newer(gateway: &Running, token: u64) -> Reply {
    let ticket = ticket("orders/1", token);
    call(
        gateway.address,
        "PUT",
        "/orders/1/new",
        Some(&ticket),
        "new",
    )
    .await
}

#[tokio::test]
async fn an_answer_that_does_not_come_keeps_newer_holders_out_until_an_operator_vouches() {
    let late = Arc::new(Notify::new());
    let of_server = Arc::clone(&late);
    let origin = Origin::start(move |first| match first {
        "PUT /orders/1 HTTP/1.1" => Act::CutAndActLate(Arc::clone(&of_server)),
        "PUT /orders/1/accepted HTTP/1.1" => Act::Answer(202),
        "PUT /orders/1/half HTTP/1.1" => Act::Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
        _ => Act::Answer(200),
    });
    let origin = origin.await;
    let bed = HttpBed::before(origin.address).with("settle = \"never\"");
    let gateway = bed.gateway().await;
    let settle = |lock: Option<&str>| {
        let question = gateway::http::control::Question::Settle(lock.map(str::to_owned));
        let path = bed.dir.path().join("gateway.sock");
        async move {
            format!(
                "{:?}",
                gateway::http::control::ask(&path, &question).await.unwrap()
            )
        }
    };
    // What an earlier gateway may have sent.
    let reply = newer(&gateway, 99).await;
    is_problem(&reply, 503, "an earlier gateway");
    while settle(None).await != "Settled(1)" {}
    for (at, path) in ["/orders/1", "/orders/1/accepted", "/orders/1/half"]
        .iter()
        .enumerate()
    {
        let token = 100 + 10 * at as u64;
        let old = ticket("orders/1", token);
        let mut raw = Raw::connect(gateway.address).await;
        raw.send(request("PUT", path, &[("Fencing-Token", &old)], "old"))
            .await;
        let reply = raw.reply().await;
        if *path == "/orders/1" {
            is_problem(&reply.unwrap(), 504, "is not known");
        }
        let reply = newer(&gateway, token + 1).await;
        is_problem(&reply, 503, &format!("under token {token} is not known"));
        assert!(reply.body.contains("gateway settle"), "{reply:?}");
        // Other locks are not touched by it.
        let other = ticket("orders/2", token);
        let free = call(gateway.address, "PUT", "/orders/2", Some(&other), "other").await;
        assert_eq!(free.status, 200, "{free:?}");
        late.notify_one();
        assert_eq!(settle(Some("orders/2")).await, "Settled(0)");
        assert_eq!(settle(Some("orders/1")).await, "Settled(1)");
        assert_eq!(newer(&gateway, token + 1).await.status, 200);
    }
}

#[tokio::test]
async fn without_the_quarantine_a_late_write_lands_behind_a_newer_one() {
    use gateway::fence::order::Rule;
    let outcome = |rule: Option<Rule>| async move {
        let late = Arc::new(Notify::new());
        let of_server = Arc::clone(&late);
        let origin = Origin::start(move |first| match first {
            "PUT /orders/1 HTTP/1.1" => Act::CutAndActLate(Arc::clone(&of_server)),
            _ => Act::Answer(200),
        });
        let origin = origin.await;
        let bed = HttpBed::before(origin.address).with("settle = \"3s\"");
        let gateway = bed.gateway_without(rule).await;
        ready(&gateway).await;
        let old = ticket("orders/1", 100);
        call(gateway.address, "PUT", "/orders/1", Some(&old), "old").await;
        let first = newer(&gateway, 101).await;
        late.notify_one();
        let new = ticket("orders/1", 101);
        call_until_ready(gateway.address, "PUT", "/orders/1/new", &new, "new").await;
        while !origin.effects().contains(&"old".to_owned()) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        (first.status, origin.effects())
    };
    assert_eq!(
        outcome(None).await,
        (503, vec!["old".to_owned(), "new".to_owned()])
    );
    let (status, effects) = outcome(Some(Rule::Doubt)).await;
    assert_eq!((status, effects[0].as_str()), (200, "new"), "{effects:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_doubt_only_in_the_middle_of_its_request() {
    let go_on = Arc::new(Notify::new());
    let held = Arc::clone(&go_on);
    let origin = Origin::start(move |first| match first {
        "PUT /orders/1 HTTP/1.1" => Act::AnswerLate(Arc::clone(&held)),
        _ => Act::Answer(200),
    });
    let origin = origin.await;
    let bed = HttpBed::before(origin.address).with("settle = \"1s\"");
    let gateway = bed.gateway().await;
    ready(&gateway).await;
    let old = ticket("orders/1", 100);
    let mut raw = Raw::connect(gateway.address).await;
    raw.send(request(
        "PUT",
        "/orders/1",
        &[("Fencing-Token", &old)],
        "whole",
    ))
    .await;
    let came = |what: &'static str| {
        let origin = &origin;
        async move {
            while !origin.requests().iter().any(|text| text.contains(what)) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    };
    came("whole").await;
    drop(raw);
    go_on.notify_one();
    // The gateway was there for the answer.
    assert_eq!(newer(&gateway, 101).await.status, 200);

    let mut raw = Raw::connect(gateway.address).await;
    let half = ticket("orders/1", 101);
    let seen = origin.bytes();
    raw.send(format!(
        "PUT /orders/1/half HTTP/1.1\r\nHost: g\r\nFencing-Token: {half}\r\n\
         Content-Length: 100\r\n\r\nhalf"
    ))
    .await;
    while origin.bytes() == seen {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    drop(raw);
    let refused = loop {
        // It waits for as long as the gateway does not know that the client has gone.
        let reply = newer(&gateway, 102).await;
        if reply.status == 503 {
            break reply;
        }
    };
    is_problem(&refused, 503, "under token 101 is not known");
    assert_eq!(header(&refused.head, "retry-after").as_deref(), Some("1"));
    let new = ticket("orders/1", 102);
    let reply = call_until_ready(gateway.address, "PUT", "/orders/1/new", &new, "new").await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_write_that_was_never_sent_leaves_no_doubt() {
    let (origin, bed, gateway) = plain_with("settle = \"1ms\"", "").await;
    let server = origin.address;
    drop(origin);
    while tokio::net::TcpStream::connect(server).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let old = ticket("orders/1", 100);
    let reply = call(gateway.address, "PUT", "/orders/1", Some(&old), "x").await;
    is_problem(&reply, 502, "cannot connect");
    let question = gateway::http::control::Question::Fences;
    let socket = bed.dir.path().join("gateway.sock");
    let lanes = gateway::http::control::ask(&socket, &question)
        .await
        .unwrap();
    let lanes = serde_json::to_string(&lanes).unwrap();
    let lane = r#"{"lock":"orders/1","token":"100","unanswered":0,"doubts":0}"#;
    assert!(lanes.contains(lane), "{lanes}");
}
