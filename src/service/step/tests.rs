//! Tables of events and what must follow from them. A policy is a name here, and promoted tables are
//! another one.

use std::net::Ipv4Addr;

use super::*;
use crate::control::capture::{Said, Seen as Probed};

type Event = super::Event<&'static str, &'static str>;
type Action = super::Action<&'static str, &'static str>;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn built(policy: &'static str) -> Event {
    Event::Built(Ok(Candidate { policy, is_compact: false }))
}

fn built_compact(policy: &'static str) -> Event {
    Event::Built(Ok(Candidate { policy, is_compact: true }))
}

fn not_built(cause: Cause) -> NotBuilt {
    NotBuilt { said: "row 3".to_owned(), cause }
}

fn heard(addresses: Option<Vec<IpAddr>>, fault: Option<&str>) -> Event {
    Event::Addresses(Heard { addresses, fault: fault.map(str::to_owned) })
}

/// Walks through a table, from the start.
fn walk(table: Vec<(Event, Vec<Action>)>) -> State {
    table.into_iter().enumerate().fold(State::started(), |state, (row, (event, expected))| {
        let told = format!("row {row}: {event:?} in {state:?}");
        let (state, actions) = step(state, event);
        assert_eq!(actions, expected, "{told}");
        state
    })
}

fn begins(asked: Asked) -> Vec<Action> {
    vec![Action::TellReloading, Action::Build(asked)]
}

#[test]
fn a_reload_builds_and_then_puts_in_force_what_was_built() {
    walk(vec![
        (Event::Reload, begins(Asked::Signal)),
        (built("new"), vec![Action::Install("new"), Action::TellReady]),
        (Event::Reload, begins(Asked::Signal)),
    ]);
}

#[test]
fn a_policy_that_is_not_built_leaves_the_one_in_force_and_the_gateway_ready() {
    for cause in [Cause::Policy, Cause::Data, Cause::Loss, Cause::Unfinished] {
        let why = not_built(cause);
        let state = walk(vec![
            (Event::Reload, begins(Asked::Signal)),
            (Event::Built(Err(why.clone())), vec![Action::Refuse(why), Action::TellReady]),
        ]);
        assert_eq!(state, State::started(), "nothing is left of {cause:?}");
    }
}

#[test]
fn one_policy_is_built_at_a_time_and_a_reload_meanwhile_is_kept_once() {
    walk(vec![
        (Event::Reload, begins(Asked::Signal)),
        (Event::Reload, vec![]),
        (Event::Reload, vec![]),
        (
            built("first"),
            vec![
                Action::Install("first"),
                Action::TellReady,
                Action::TellReloading,
                Action::Build(Asked::Signal),
            ],
        ),
        (built("second"), vec![Action::Install("second"), Action::TellReady]),
    ]);
}

#[test]
fn the_operators_word_outranks_the_watch_and_not_the_other_way() {
    let changed = Action::Note("a file behind the policy changed");
    let signal = Event::Reload;
    let watch = Event::Files(Seen::Changed);
    for (first, second) in [(signal.clone(), watch.clone()), (watch.clone(), signal)] {
        let (state, _) = step(State::started(), watch.clone());
        let (state, _) = step(state, first);
        let (state, _) = step(state, second);
        let (_, actions) = step(state, built("new"));
        assert!(actions.ends_with(&begins(Asked::Signal)), "{actions:?}");
    }
    let mut begun = vec![changed.clone()];
    begun.extend(begins(Asked::Watch));
    let mut again = vec![Action::Install("new"), Action::TellReady];
    again.extend(begins(Asked::Watch));
    walk(vec![(watch.clone(), begun), (watch, vec![changed]), (built("new"), again)]);
}

#[test]
fn a_file_that_changes_is_told_of_and_taken_up_only_once_it_is_whole() {
    let changing = "a file behind the policy changes: taken up once it is whole";
    let state = walk(vec![
        (Event::Files(Seen::Nothing), vec![]),
        (Event::Files(Seen::Changing), vec![Action::Note(changing)]),
    ]);
    assert_eq!(state, State::started());
}

#[test]
fn compact_tables_are_promoted_when_nothing_else_is_to_be_built() {
    walk(vec![
        (Event::Reload, begins(Asked::Signal)),
        (built_compact("new"), vec![Action::Install("new"), Action::TellReady, Action::Promote]),
        (Event::Promoted("tables"), vec![Action::InstallPromoted("tables")]),
        (Event::Reload, begins(Asked::Signal)),
    ]);
}

#[test]
fn a_reload_goes_before_a_promotion_which_is_not_forgotten() {
    let why = not_built(Cause::Data);
    let mut kept = vec![Action::Install("new"), Action::TellReady];
    kept.extend(begins(Asked::Signal));
    let refused = Event::Built(Err(why.clone()));
    walk(vec![
        (Event::Reload, begins(Asked::Signal)),
        (Event::Reload, vec![]),
        (built_compact("new"), kept),
        (refused, vec![Action::Refuse(why), Action::TellReady, Action::Promote]),
        (Event::Reload, vec![]),
        (
            Event::Promoted("tables"),
            vec![
                Action::InstallPromoted("tables"),
                Action::TellReloading,
                Action::Build(Asked::Signal),
            ],
        ),
    ]);
}

#[test]
fn a_thread_that_dies_or_cannot_begin_is_a_refusal_and_the_next_reload_is_taken() {
    let refused = |said: &str| {
        let why = NotBuilt { said: said.to_owned(), cause: Cause::Policy };
        vec![Action::Refuse(why), Action::TellReady]
    };
    let lost = "the thread that built the policy ended before it was done";
    walk(vec![
        (Event::Reload, begins(Asked::Signal)),
        (Event::Lost, refused(lost)),
        (Event::Reload, begins(Asked::Signal)),
        (
            Event::NotBegun(Work::Policy, "EAGAIN".to_owned()),
            refused("no thread to build the policy: EAGAIN"),
        ),
        (Event::Reload, begins(Asked::Signal)),
        (built_compact("new"), vec![Action::Install("new"), Action::TellReady, Action::Promote]),
        // A promotion that dies is not begun again before something else is built.
        (Event::Lost, refused(lost)),
        (Event::Reload, begins(Asked::Signal)),
        (built_compact("next"), vec![Action::Install("next"), Action::TellReady, Action::Promote]),
        (
            Event::NotBegun(Work::Promotion, "EAGAIN".to_owned()),
            vec![Action::PromotionPutOff("EAGAIN".to_owned())],
        ),
        (Event::Reload, begins(Asked::Signal)),
    ]);
}

#[test]
fn what_was_built_learns_the_addresses_that_were_heard_meanwhile() {
    let met = Action::Met(Need::OwnAddresses);
    walk(vec![
        (Event::Reload, begins(Asked::Signal)),
        (heard(Some(vec![HERE]), None), vec![met, Action::Readdress(vec![HERE])]),
        (
            built_compact("new"),
            vec![
                Action::Install("new"),
                Action::TellReady,
                Action::Readdress(vec![HERE]),
                Action::Promote,
            ],
        ),
        (
            Event::Promoted("tables"),
            vec![Action::InstallPromoted("tables"), Action::Readdress(vec![HERE])],
        ),
    ]);
}

#[test]
fn a_gateway_that_does_not_know_its_addresses_is_not_ready_and_keeps_the_last_ones() {
    let (met, misses) = (Action::Met(Need::OwnAddresses), Action::Misses(Need::OwnAddresses));
    let unknown = Action::AddressesUnknown("deaf".to_owned());
    walk(vec![
        (heard(Some(vec![HERE]), None), vec![met.clone(), Action::Readdress(vec![HERE])]),
        (heard(None, Some("deaf")), vec![unknown.clone(), misses.clone()]),
        (Event::Reload, begins(Asked::Signal)),
        (
            built("new"),
            vec![Action::Install("new"), Action::TellReady, Action::Readdress(vec![HERE])],
        ),
        // Listed, and not followed: taken up, and still not ready.
        (heard(Some(vec![]), Some("deaf")), vec![unknown, misses, Action::Readdress(vec![])]),
        (heard(Some(vec![]), None), vec![met, Action::Readdress(vec![])]),
    ]);
}

#[test]
fn the_gateway_is_ready_as_far_as_the_probes_are_and_says_the_same_once() {
    let says = |probe: &[(&str, Probed)]| {
        let probe = probe.iter().map(|(way, seen)| ((*way).to_owned(), *seen)).collect();
        Event::Capture(Word::Says(Said { probe, unprobed: "no pair".into(), ..Said::default() }))
    };
    let stands = |how: &str| {
        vec![
            Action::CaptureStands(how.to_owned()),
            Action::Met(Need::Probe),
            Action::CaptureFact(how.to_owned()),
            Action::TellStatus,
        ]
    };
    let fails = |how: &str| {
        vec![
            Action::CaptureFails(how.to_owned()),
            Action::Misses(Need::Probe),
            Action::CaptureFact(how.to_owned()),
            Action::TellStatus,
        ]
    };
    walk(vec![
        (Event::Capture(Word::Nobody), vec![]),
        (says(&[]), stands("kept, not probed: no pair")),
        (says(&[]), vec![]),
        (says(&[("tcp4", Probed::Held)]), stands("probed, and holds")),
        (says(&[("tcp4", Probed::Held), ("udp4", Probed::Held)]), vec![]),
        (says(&[("tcp4", Probed::Open)]), fails("THE POST IS OPEN for tcp4")),
        (says(&[("tcp4", Probed::Open)]), vec![]),
        (Event::Capture(Word::Silent), fails("the keeper of the capture is gone, or hangs")),
        (Event::Capture(Word::Silent), vec![]),
        (says(&[("tcp4", Probed::Held)]), stands("probed, and holds")),
        (Event::Capture(Word::Nobody), stands("not probed: `schengate capture keep` does not run")),
        (Event::Capture(Word::Hindered("`do this`".into())), fails("`do this`")),
        (Event::Capture(Word::Hindered("`do this`".into())), vec![]),
        (Event::Capture(Word::Hindered("`do that`".into())), fails("`do that`")),
        (Event::Capture(Word::Nobody), stands("not probed: `schengate capture keep` does not run")),
    ]);
}

#[test]
fn a_table_that_grows_stale_is_told_of_once_until_it_is_young_again() {
    let day = Duration::from_secs(86_400);
    let begun: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
    let at = |days: u32| begun + day * days;
    let due = |now: u32, max_age: Option<u32>, tables: &[(&str, u32)]| {
        let max_age = max_age.map(|days| day * days);
        let dated = |&(table, of): &(&str, u32)| {
            let table = table.to_owned();
            Dated { table, as_of: at(of), max_age }
        };
        Event::Ages { now: at(now), tables: tables.iter().map(dated).collect() }
    };
    let age = |table: &str, days: u32, is_stale| Action::Age {
        table: table.to_owned(),
        age: day * days,
        is_stale,
    };
    let grown = |table: &str, days: u32| Action::GrownStale {
        table: table.to_owned(),
        age: day * days,
        max_age: day * 2,
    };
    walk(vec![
        (due(2, Some(2), &[("a", 0), ("b", 1)]), vec![age("a", 2, false), age("b", 1, false)]),
        (
            due(3, Some(2), &[("a", 0), ("b", 1)]),
            vec![age("a", 3, true), grown("a", 3), age("b", 2, false)],
        ),
        (
            due(4, Some(2), &[("a", 0), ("b", 1)]),
            vec![age("a", 4, true), age("b", 3, true), grown("b", 3)],
        ),
        // A date to come is no age.
        (due(4, Some(2), &[("a", 4), ("b", 9)]), vec![age("a", 0, false)]),
        (due(7, Some(2), &[("a", 4)]), vec![age("a", 3, true), grown("a", 3)]),
        (due(99, None, &[("a", 4)]), vec![age("a", 95, false)]),
    ]);
}

#[test]
fn a_date_that_passes_is_published_before_connections_are_judged_by_it() {
    let said = Action::Note("a date in the policy has passed: judged anew");
    walk(vec![(Event::Advanced, vec![Action::Publish, Action::Rejudge, said])]);
}

#[test]
fn a_gateway_behind_a_front_frees_everything_before_it_drains_and_then_says_so() {
    let behind = endings(true);
    let place = |of: Ending| behind.iter().position(|ending| *ending == of).unwrap();
    for freed in [Ending::LetGo, Ending::StopShortcut, Ending::CloseAdmin] {
        assert!(place(freed) < place(Ending::TellFront), "{freed:?}");
    }
    assert!(place(Ending::TellFront) < place(Ending::Drain));
    assert!(!behind.contains(&Ending::TellStopping), "the service manager watches the front");
}

#[test]
fn a_gateway_alone_drains_while_the_kernel_still_judges() {
    let alone = endings(false);
    let place = |of: Ending| alone.iter().position(|ending| *ending == of).unwrap();
    assert!(place(Ending::TellStopping) < place(Ending::Drain));
    assert!(place(Ending::Drain) < place(Ending::StopShortcut));
    for all in [alone, endings(true)] {
        assert_eq!((all.first(), all.last()), (Some(&Ending::Unready), Some(&Ending::Flush)));
    }
}
