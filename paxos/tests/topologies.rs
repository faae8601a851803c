//! Which links work decides whether a cell can have a leader; that it then gets one, in bounded
//! time and once, is shown here: every set of directed links among three nodes, from every moment
//! of the protocol (elections, replication, ends of epochs, snapshots), and the topologies of
//! Omni-Paxos among five (Ng, Haridi, Carbone, EuroSys 2023, sections 2 and 7).

use paxos::Planted;
use paxos::sim::scenario::{Moment, Outcome, Scenario};

/// The directed links among three nodes; a mask has a bit for each.
const LINKS: [(usize, usize); 6] = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];

/// Within so many election timeouts a connected quorum has its leader, who decides. Omni-Paxos
/// takes four where links fail both ways at once and no election is on its way.
const TIMEOUTS_MAX: u64 = 4;

/// For so long nothing changes any more, election timeouts.
const QUIET_TIMEOUTS: u64 = 12;

/// What became of a cell after its links had changed.
struct After {
    /// Election timeouts until the leader that stayed was established, and decided something new.
    timeouts: f64,
}

/// Goes on after the links were changed; says what is wrong if no leader stays, or not in time.
fn settle(cell: &mut Scenario) -> Result<After, String> {
    let timeout = cell.election_timeout_micros();
    let begin = cell.now();
    let broken = |violation: paxos::sim::invariants::Violation| violation.to_string();
    let mut leader = cell.leader();
    let mut decided = cell.decided();
    let mut since = None;
    let end = begin + (TIMEOUTS_MAX + QUIET_TIMEOUTS) * timeout;
    while cell.now() < end {
        cell.run_for(timeout / 40).map_err(broken)?;
        let (now_leader, now_decided) = (cell.leader(), cell.decided());
        let stays = now_leader.is_some() && now_leader == leader;
        if !stays {
            since = None;
            decided = now_decided;
        } else if now_decided > decided && since.is_none() {
            since = Some(cell.now());
        }
        leader = now_leader;
    }
    let since = since.ok_or("nobody leads and decides")?;
    let before = cell.decided();
    let campaigns = cell.campaigns();
    cell.run_for(QUIET_TIMEOUTS * timeout).map_err(broken)?;
    if cell.leader() != leader || cell.campaigns() != campaigns || cell.decided() <= before {
        return Err("the leader does not stay, or does not decide".to_owned());
    }
    let timeouts = (since - begin) as f64 / timeout as f64;
    if timeouts > TIMEOUTS_MAX as f64 {
        return Err(format!("it took {timeouts:.2} election timeouts"));
    }
    Ok(After { timeouts })
}

/// A cell of three with a log behind it, and `node` about to lead or leading, at this moment.
fn at(moment: Moment, node: usize, seed: u64, told: bool) -> Outcome<Option<Scenario>> {
    match moment {
        Moment::Stopping | Moment::StopDecided | Moment::NextEpoch => {
            at_end_of_epoch(moment, node, seed, told)
        }
        Moment::Offering | Moment::Transferring | Moment::Installing => {
            at_transfer(moment, node, seed, told)
        }
        _ => at_election(moment, node, seed, told),
    }
}

/// `node` leads, and ends the epoch.
fn at_end_of_epoch(
    moment: Moment,
    node: usize,
    seed: u64,
    told: bool,
) -> Outcome<Option<Scenario>> {
    let mut cell = Scenario::new(3, seed, told)?;
    let timeout = cell.election_timeout_micros();
    cell.only_candidate(Some(node));
    assert!(cell.run_to_leader(node, 4 * timeout)?, "a leader");
    cell.run_for(timeout)?;
    assert!(cell.end_epoch(node)?, "it leads");
    let came = cell.run_to(moment, node, 8 * timeout)?;
    cell.only_candidate(None);
    Ok(came.then_some(cell))
}

/// `node` leads, and gives a snapshot to another that was away for too long.
fn at_transfer(moment: Moment, node: usize, seed: u64, told: bool) -> Outcome<Option<Scenario>> {
    let mut cell = Scenario::with_short_logs(3, seed, told)?;
    let timeout = cell.election_timeout_micros();
    let away = (node + 1) % 3;
    cell.only_candidate(Some(node));
    assert!(cell.run_to_leader(node, 4 * timeout)?, "a leader");
    let links = LINKS.into_iter();
    let links = links.filter(|(from, to)| *from == away || *to == away);
    let connect = |cell: &mut Scenario, connected| {
        let links = links.clone();
        links.for_each(|(from, to)| cell.connect(from, to, connected));
    };
    connect(&mut cell, false);
    cell.run_for(4 * timeout)?;
    connect(&mut cell, true);
    let came = cell.run_to(moment, node, 8 * timeout)?;
    cell.only_candidate(None);
    Ok(came.then_some(cell))
}

/// Another leader's log is there, and `node` comes to lead.
fn at_election(moment: Moment, node: usize, seed: u64, told: bool) -> Outcome<Option<Scenario>> {
    let mut cell = Scenario::new(3, seed, told)?;
    let timeout = cell.election_timeout_micros();
    let before = (node + 1) % 3;
    cell.only_candidate(Some(before));
    assert!(cell.run_to_leader(before, 4 * timeout)?, "a first leader");
    cell.run_for(timeout)?;
    // The last entries of the first leader do not reach the node, so it will have to fetch them.
    cell.connect(before, node, false);
    cell.run_for(timeout / 4)?;
    cell.only_candidate(Some(node));
    cell.crash(before, timeout / 8)?;
    cell.connect(before, node, true);
    let came = cell.run_to(moment, node, 8 * timeout)?;
    cell.only_candidate(None);
    Ok(came.then_some(cell))
}

fn has_connected_pair(mask: u32) -> bool {
    (0..3).any(|pair| mask >> (2 * pair) & 3 == 3)
}

/// All masks from one moment; the worst time, in election timeouts.
fn all_masks_from(moment: Moment, seeds: std::ops::Range<u64>) -> f64 {
    let mut worst: f64 = 0.0;
    for seed in seeds {
        for node in 0..3 {
            for mask in 0..64 {
                let after = with_links(mask, moment, node, seed, false);
                match after {
                    Ok(Some(After { timeouts })) => worst = worst.max(timeouts),
                    Ok(None) => {}
                    Err(what) => {
                        let told = with_links(mask, moment, node, seed, true).err();
                        let told = told.unwrap_or_default();
                        panic!(
                            "links {mask:06b} from {moment:?} at node {node}, seed {seed}: \
                             {what}\n{told}"
                        );
                    }
                }
            }
        }
    }
    worst
}

fn with_links(
    mask: u32,
    moment: Moment,
    node: usize,
    seed: u64,
    told: bool,
) -> Result<Option<After>, String> {
    let cell = at(moment, node, seed, told).map_err(|violation| violation.to_string())?;
    let mut cell = cell.ok_or_else(|| format!("{moment:?} did not come at node {node}"))?;
    for (bit, (from, to)) in LINKS.into_iter().enumerate() {
        cell.connect(from, to, mask >> bit & 1 == 1);
    }
    if has_connected_pair(mask) {
        let after = settle(&mut cell);
        return after
            .map(Some)
            .map_err(|what| format!("{}\n{what}", cell.story().join("\n")));
    }
    // Nobody can lead; that nobody decides two things is checked with every step.
    let timeout = cell.election_timeout_micros();
    let run = cell.run_for(4 * timeout);
    run.map_err(|violation| violation.to_string())?;
    let decided = cell.decided();
    let run = cell.run_for(4 * timeout);
    run.map_err(|violation| violation.to_string())?;
    if cell.decided() != decided {
        return Err("something was decided without a quorum".to_owned());
    }
    Ok(None)
}

macro_rules! moments {
    ($($name:ident: $moment:ident,)+) => {
        $(
            #[test]
            fn $name() {
                let worst = all_masks_from(Moment::$moment, 0..2);
                println!("{:?}: at most {worst:.2} election timeouts", Moment::$moment);
            }
        )+

        #[test]
        fn every_moment_is_begun_from() {
            assert_eq!([$(Moment::$moment,)+], Moment::ALL);
        }
    };
}

moments! {
    a_connected_pair_gets_its_leader_when_links_fail_while_a_node_asks: Asked,
    a_connected_pair_gets_its_leader_when_links_fail_during_the_own_promise: Promising,
    a_connected_pair_gets_its_leader_when_links_fail_after_a_prepare: PrepareSent,
    a_connected_pair_gets_its_leader_when_links_fail_after_a_promise: PromiseDurable,
    a_connected_pair_gets_its_leader_when_links_fail_during_a_fetch: Fetching,
    a_connected_pair_gets_its_leader_when_links_fail_before_new_leader: Leads,
    a_connected_pair_gets_its_leader_when_links_fail_during_a_sync: Syncing,
    a_connected_pair_gets_its_leader_when_links_fail_after_new_leader: Established,
    a_connected_pair_gets_its_leader_when_links_fail_during_replication: Replicating,
    a_connected_pair_gets_its_leader_when_links_fail_during_a_write: Writing,
    a_connected_pair_gets_its_leader_when_links_fail_during_a_confirm: Confirming,
    a_connected_pair_gets_its_leader_when_links_fail_at_the_end_of_an_epoch: Stopping,
    a_connected_pair_gets_its_leader_when_links_fail_and_one_knows_of_the_next_epoch: StopDecided,
    a_connected_pair_gets_its_leader_when_links_fail_at_the_start_of_an_epoch: NextEpoch,
    a_connected_pair_gets_its_leader_when_links_fail_at_the_offer_of_a_snapshot: Offering,
    a_connected_pair_gets_its_leader_when_links_fail_during_a_transfer: Transferring,
    a_connected_pair_gets_its_leader_when_links_fail_while_a_snapshot_is_installed: Installing,
}

/// A cell of five that `leader` leads.
fn five(leader: usize, seed: u64, told: bool) -> Scenario {
    let mut cell = Scenario::new(5, seed, told).expect("it starts");
    let timeout = cell.election_timeout_micros();
    cell.only_candidate(Some(leader));
    let led = cell.run_to_leader(leader, 4 * timeout);
    assert!(led.expect("no invariant is broken"), "a first leader");
    cell.only_candidate(None);
    cell.run_for(timeout).expect("no invariant is broken");
    cell
}

/// Cuts every link that `works` says nothing of.
fn keep(cell: &mut Scenario, works: impl Fn(usize, usize) -> bool) {
    for from in 0..5 {
        for to in (0..5).filter(|to| *to != from) {
            cell.connect(from, to, works(from, to));
        }
    }
}

/// From a leader 0 and some seeds, the cell settles after `change`; on whom.
fn five_settle(change: impl Fn(&mut Scenario), may_lead: &[usize]) {
    let mut worst: f64 = 0.0;
    for seed in 0..20 {
        let mut cell = five(0, seed, false);
        change(&mut cell);
        match settle(&mut cell) {
            Ok(after) => worst = worst.max(after.timeouts),
            Err(what) => {
                let mut told = five(0, seed, true);
                change(&mut told);
                drop(settle(&mut told));
                panic!("seed {seed}: {what}\n{}", told.story().join("\n"));
            }
        }
        let (leader, _) = cell.leader().expect("it settled");
        assert!(
            may_lead.contains(&leader),
            "seed {seed}: node {leader} leads"
        );
    }
    println!("at most {worst:.2} election timeouts");
}

fn both(a: usize, b: usize) -> impl Fn(usize, usize) -> bool {
    move |from, to| (from, to) == (a, b) || (from, to) == (b, a)
}

#[test]
fn a_leader_that_lost_its_quorum_gives_way_to_the_only_node_that_has_one() {
    // Quorum loss: everyone reaches node 1 only; the leader, node 0, is alive and still heard.
    five_settle(|cell| keep(cell, |from, to| from == 1 || to == 1), &[1]);
}

#[test]
fn the_only_node_with_a_quorum_leads_although_its_log_is_behind() {
    // Constrained election: the leader is gone, everyone reaches node 1 only, and it lacks entries.
    let change = |cell: &mut Scenario| {
        let timeout = cell.election_timeout_micros();
        cell.connect(0, 1, false);
        cell.run_for(timeout / 4).expect("no invariant is broken");
        keep(cell, |from, to| {
            from != 0 && to != 0 && (from == 1 || to == 1)
        });
    };
    five_settle(change, &[1]);
}

#[test]
fn a_chain_has_one_leader_and_keeps_it() {
    let change = |cell: &mut Scenario| keep(cell, |from, to| from.abs_diff(to) == 1);
    five_settle(change, &[1, 2, 3]);
}

/// Three in a chain, the leader at its end; and each end has one more node.
fn chain_with_the_leader_at_its_end(cell: &mut Scenario) {
    keep(cell, |from, to| {
        let close = both(0, 1)(from, to) || both(1, 2)(from, to);
        close || both(0, 3)(from, to) || both(2, 4)(from, to)
    });
}

#[test]
fn a_chain_whose_ends_do_not_hear_the_leader_does_not_take_turns() {
    // The other end must not depose it again and again.
    five_settle(chain_with_the_leader_at_its_end, &[0, 1, 2]);
}

/// Without the rule that nobody who answers may be happy.
#[test]
fn campaigns_against_happy_nodes_make_a_chain_take_turns() {
    for seed in 0..5 {
        let mut cell = five(0, seed, false);
        chain_with_the_leader_at_its_end(&mut cell);
        cell.plant(Planted::CampaignAgainstHappy);
        assert!(settle(&mut cell).is_err(), "seed {seed} settles");
    }
}

#[test]
fn the_same_holds_where_links_fail_in_one_direction_only() {
    // Quorum loss: nobody but node 1 is heard by any other; the leader is heard by all.
    let loss = |cell: &mut Scenario| {
        keep(cell, |from, to| from == 1 || to == 1 || from == 0);
    };
    five_settle(loss, &[1]);
    // The old leader can only send, to everyone.
    let sender = |cell: &mut Scenario| keep(cell, |_, to| to != 0);
    five_settle(sender, &[1, 2, 3, 4]);
    // It can only receive.
    let receiver = |cell: &mut Scenario| keep(cell, |from, _| from != 0);
    five_settle(receiver, &[1, 2, 3, 4]);
    // A chain in which messages may also skip nodes, but only one way.
    let chain = |cell: &mut Scenario| keep(cell, |from, to| from < to || from == to + 1);
    five_settle(chain, &[0, 1, 2, 3, 4]);
}

#[test]
fn a_leader_whose_disk_is_stuck_gives_way_to_another() {
    five_settle(|cell| cell.stick_disk(0), &[1, 2, 3, 4]);
}

#[test]
fn a_node_that_only_sends_or_only_receives_changes_no_leader() {
    for outcast in 1..5 {
        for sends in [false, true] {
            let mut cell = five(0, 7, false);
            assert_eq!(campaigns_with_an_outcast(&mut cell, outcast, sends), 0);
            assert_eq!(cell.leader().map(|(leader, _)| leader), Some(0));
        }
    }
}

/// Without the rule that a quorum must have answered.
#[test]
fn campaigns_without_answers_let_a_node_that_only_sends_disturb_all() {
    for outcast in 1..5 {
        let mut cell = five(0, 7, false);
        cell.plant(Planted::CampaignUnanswered);
        let campaigns = campaigns_with_an_outcast(&mut cell, outcast, true);
        assert!(campaigns > QUIET_TIMEOUTS, "only {campaigns} campaigns");
    }
}

/// How many campaigns are begun while a node only sends, or only receives.
fn campaigns_with_an_outcast(cell: &mut Scenario, outcast: usize, sends: bool) -> u64 {
    let before = cell.campaigns();
    keep(cell, |from, to| {
        let mute = if sends { to } else { from };
        mute != outcast
    });
    let timeout = cell.election_timeout_micros();
    let run = cell.run_for(3 * QUIET_TIMEOUTS * timeout);
    run.expect("no invariant is broken");
    cell.campaigns() - before
}
