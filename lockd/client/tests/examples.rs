//! The examples do what they say.

#[path = "../examples/leader_election.rs"]
mod leader_election;
#[path = "../examples/service_discovery.rs"]
mod service_discovery;

#[test]
fn leaders_are_elected() {
    leader_election::main().expect("it ends well");
}

#[test]
fn services_are_discovered() {
    service_discovery::main().expect("it ends well");
}
