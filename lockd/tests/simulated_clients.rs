//! The client's core and the nodes' cores together, under a virtual clock and hostile conditions.
//!
//! Nodes crash, pause and lose each other's messages; clients lose their connections, and what
//! they had sent arrives late all the same; every clock runs up to 1 % fast or slow. Still: no
//! two clients believe at any instant that they hold the same lock, tokens rise, and when the
//! faults have ended, everybody is served and nothing is left behind.

mod simulation;

use simulation::World;

const SEEDS: u64 = 200;

/// Runs one seed. A failure names it.
fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    world.run_with_faults(30_000);
    world.heal_and_finish();
    world
}

#[test]
fn no_two_clients_ever_believe_in_the_same_lock_whatever_fails() {
    let mut seen = simulation::Seen::default();
    for seed in 0..SEEDS {
        let world = run(seed);
        seen.add(world.seen());
    }
    // A simulation in which nothing happened proves nothing.
    eprintln!("{seen:?}");
    assert!(seen.grants > 5_000, "{seen:?}");
    assert!(seen.crashes > 200, "{seen:?}");
    assert!(seen.cuts > 1_000, "{seen:?}");
    assert!(seen.sessions_lost > 500, "{seen:?}");
    assert!(seen.broken > 50, "{seen:?}");
    assert!(seen.taken_back > 1_000, "{seen:?}");
}
