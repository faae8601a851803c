//! Leader election: two candidates, one leader at a time, and somebody who follows who leads.
//!
//! `cargo run -p lockd-client --example leader_election` runs it against a cell of its own, three
//! nodes in this process. With a cell of yours, give the builder its `client.toml`.

use std::error::Error;

use lockd::dev::DevCell;
use lockd_client::{Client, Leadership};

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let cell = DevCell::start(None)?;
    let connect = || Client::builder().config_file(cell.client_config());
    let (one, two) = (connect()?.connect().await?, connect()?.connect().await?);
    let watcher = connect()?.without_session().connect().await?;

    let mut observer = watcher.election("jobs/leader").observe();
    assert_eq!(observer.next().await?, None, "nobody leads yet");

    let first = one.election("jobs/leader").campaign("10.0.0.1:80").await?;
    let leader = observer.next().await?.ok_or("nobody leads")?;
    println!(
        "term {}: {}",
        leader.token,
        String::from_utf8_lossy(&leader.value)
    );

    // The other one waits until it is its turn.
    let second =
        tokio::spawn(async move { two.election("jobs/leader").campaign("10.0.0.2:80").await });

    // The leader says what it is at. Whatever it leads should look at its ticket or its token, or
    // a leader that was paused for long could still act after its term.
    lead(&first).await?;
    first.resign().await?;

    let second = second.await??;
    // Who looks rarely may miss a term, but never sees an earlier one after a later one.
    let seen = loop {
        match observer.next().await? {
            Some(leader) if leader.token == second.token() => break leader,
            other => println!("meanwhile: {other:?}"),
        }
    };
    println!(
        "term {}: {}",
        seen.token,
        String::from_utf8_lossy(&seen.value)
    );
    let asked = watcher.election("jobs/leader").leader().await?;
    assert_eq!(asked, Some(seen), "the cell says the same");
    Ok(())
}

async fn lead(leadership: &Leadership) -> Result<(), Box<dyn Error>> {
    tokio::select! {
        reason = leadership.lost() => Err(format!("not the leader any more: {reason}").into()),
        proclaimed = leadership.proclaim("10.0.0.1:80, draining") => {
            proclaimed?;
            Ok(())
        }
    }
}
