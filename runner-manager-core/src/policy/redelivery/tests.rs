//! Tables, and a model of a log over which looks go with all that can befall them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};

use super::{
    ASKED_FOR_WITHIN, Answer, FIRST_LOOK, MOST_ASKED, MOST_FAILED, OUTCOME_WITHIN, OVERLAP, QUIET_AFTER,
    QUIET_FACTOR, REDELIVERABLE_FOR, SHOWN_WITHIN, SOON, SOUGHT_EVERY, answered, asking, due, earlier,
    is_sought, pause, read, since, vouches,
};
use crate::domain::{
    DeliveryId, FailedDelivery, FoundHook, HookPlace, HookRecord, JOB_EVENT, Redelivery, Scope,
    WebhookDelivery, later,
};
use crate::policy::samples::at;

const MINUTE: Duration = Duration::from_mins(1);
const URL: &str = "https://rm.example.com/webhook";
const DAY: i64 = 24 * 3_600;

fn guid(name: &str) -> DeliveryId {
    DeliveryId::new(name)
}

fn entry(name: &str, second: i64, status: u16) -> WebhookDelivery {
    WebhookDelivery {
        id: u64::try_from(1_000_000 + second).unwrap(),
        delivery: guid(name),
        at: at(second),
        status,
        event: JOB_EVENT.to_owned(),
        is_redelivery: false,
    }
}

fn again(name: &str, second: i64, status: u16) -> WebhookDelivery {
    WebhookDelivery { is_redelivery: true, ..entry(name, second, status) }
}

fn found() -> HookRecord {
    let place = HookPlace::Scope(Scope::organization("acme").unwrap());
    HookRecord {
        found: Some(FoundHook::Numbered(1)),
        url: Some(URL.to_owned()),
        sought_at: Some(at(0)),
        ..HookRecord::new(place)
    }
}

fn with(redelivery: Redelivery) -> HookRecord {
    let failed = FailedDelivery { attempt: 1_000_000, failed_at: at(0), redelivery };
    HookRecord { failed: [(guid("a"), failed)].into(), read_to: Some(at(0)), ..found() }
}

#[test]
fn a_log_vouches_for_what_got_through_or_was_asked_for_again() {
    let (log, _) = read(found(), &[entry("a", 10, 200)], at(60));
    assert!(vouches(&log, at(0), at(60)));
    assert!(!vouches(&log, at(0), later(at(60), ASKED_FOR_WITHIN)), "it is read no more");
    assert!(!vouches(&HookRecord { trouble: Some("NotFound".to_owned()), ..log.clone() }, at(0), at(60)));
    assert!(!vouches(&HookRecord { found: Some(FoundHook::Absent), ..log.clone() }, at(0), at(60)));
    assert!(!vouches(&found(), at(0), at(60)), "it was never read");
    let (failed, _) = read(log.clone(), &[entry("b", 70, 500)], at(120));
    assert!(vouches(&failed, at(0), at(120)), "it is about to be asked for");
    let (neglected, _) = read(failed, &[], later(at(70), ASKED_FOR_WITHIN));
    assert!(!vouches(&neglected, at(0), later(at(70), ASKED_FOR_WITHIN)), "nobody asks for it");
    let (given_up, _) = read(log, &[again("b", 110, 500), entry("b", 70, 500)], at(120));
    assert!(!vouches(&given_up, at(120), at(120)), "it failed again");
    assert!(vouches(&given_up, at(121), at(121)), "a look at the jobs came after that");
}

#[test]
fn a_log_vouches_for_nothing_that_was_sent_before_it_was_read() {
    let late = later(at(1), FIRST_LOOK);
    let (log, _) = read(found(), &[], late);
    assert!(!vouches(&log, at(1), late), "what failed an instant before the listing is not in what was read");
    assert!(vouches(&log, at(2), late));
    let after_long = later(late, REDELIVERABLE_FOR * 2);
    let (log, _) = read(log, &[], after_long);
    assert!(!vouches(&log, at(2), after_long), "nobody read it for days");
}

#[test]
fn what_is_over_without_being_taken_is_given_up() {
    let minutes = |count: i64| at(count * 60);
    for redelivery in [Redelivery::Over, Redelivery::Asked { at: at(0) }] {
        let (record, _) = read(with(redelivery), &[], minutes(10));
        assert_eq!(record.given_up_at, Some(minutes(10)), "{redelivery:?}");
    }
    for redelivery in [Redelivery::Due, Redelivery::Asked { at: minutes(9) }] {
        assert_eq!(read(with(redelivery), &[], minutes(10)).0.given_up_at, None, "{redelivery:?}");
    }
    let many: Vec<_> = (0..=MOST_FAILED).map(|at| entry(&at.to_string(), 0, 500)).collect();
    assert_eq!(read(found(), &many, at(60)).0.given_up_at, Some(at(60)), "more than are kept");
}

/// The deliveries that a log, newest first, has asked for.
fn asked_of(log: &[WebhookDelivery], now: i64) -> Vec<String> {
    let (record, _) = read(found(), log, at(now));
    due(&record, MOST_ASKED, at(now)).iter().map(ToString::to_string).collect()
}

#[test]
fn what_failed_and_nobody_asked_for_is_asked_for() {
    let of_another_event = WebhookDelivery { event: "ping".to_owned(), ..entry("a", 0, 500) };
    let table: [(&[WebhookDelivery], &[&str]); 10] = [
        (&[entry("a", 0, 500)], &["a"]),
        (&[entry("a", 0, 0)], &["a"]),
        (&[entry("a", 0, 401)], &["a"]),
        (&[entry("a", 0, 302)], &["a"]),
        (&[entry("a", 0, 202)], &[]),
        (&[of_another_event], &[]),
        (&[entry("b", 1, 502), entry("a", 0, 502)], &["b", "a"]),
        (&[again("a", 1, 202), entry("a", 0, 500)], &[]),
        (&[again("a", 1, 500), entry("a", 0, 500)], &[]),
        // A delivery that came twice, and was taken once.
        (&[entry("a", 1, 500), entry("a", 0, 202)], &[]),
    ];
    for (log, expected) in table {
        assert_eq!(asked_of(log, 60), expected, "{log:?}");
    }
}

#[test]
fn what_is_too_old_is_left() {
    let log = [entry("a", 0, 500)];
    assert_eq!(asked_of(&log, 3 * DAY - 1), ["a"]);
    assert!(asked_of(&log, 3 * DAY).is_empty());
    let (record, _) = read(with(Redelivery::Due), &[], at(3 * DAY));
    assert!(record.failed.is_empty(), "and forgotten");
}

#[test]
fn a_log_is_read_from_where_the_last_look_ended() {
    let fresh = HookRecord { read_to: None, ..found() };
    assert_eq!(since(&fresh, at(DAY)), earlier(at(DAY), FIRST_LOOK));
    let (record, _) = read(fresh, &[entry("b", DAY - 10, 202), entry("a", DAY - 20, 202)], at(DAY));
    assert_eq!(record.read_to, Some(at(DAY - 10)));
    assert_eq!(since(&record, at(DAY)), earlier(at(DAY - 10), OVERLAP));
    assert_eq!(since(&record, at(9 * DAY)), earlier(at(9 * DAY), REDELIVERABLE_FOR), "there is no more");
    let (record, _) = read(record, &[entry("a", DAY - 20, 202)], at(DAY));
    assert_eq!(record.read_to, Some(at(DAY - 10)), "never back");
}

#[test]
fn an_outcome_is_told_once() {
    let asked = || with(Redelivery::Asked { at: at(1) });
    let (record, news) = read(asked(), &[again("a", 2, 202), entry("a", 0, 500)], at(60));
    assert_eq!((news.taken, news.failed_again, record.failed.len()), (1, 0, 0));
    let (record, news) = read(record, &[again("a", 2, 202), entry("a", 0, 500)], at(90));
    assert_eq!((news.taken, news.failed, record.failed.len()), (0, 0, 0));
    let (_, news) = read(asked(), &[again("a", 2, 500), entry("a", 0, 500)], at(60));
    assert_eq!((news.taken, news.failed_again), (0, 1));
    let (record, news) = read(with(Redelivery::Due), &[again("a", 2, 202)], at(60));
    assert_eq!((news.taken, record.failed.len()), (0, 0), "somebody else asked");
}

#[test]
fn an_answer_that_was_lost_is_looked_up_before_github_is_asked_once_more() {
    let unclear = answered(Redelivery::Due, Answer::Unclear, at(10));
    let (record, _) = read(with(unclear), &[entry("a", 0, 500)], at(30));
    assert!(due(&record, MOST_ASKED, at(30)).is_empty(), "the log may show it yet");
    let later_on = later(at(10), SHOWN_WITHIN);
    assert_eq!(due(&record, MOST_ASKED, later_on), [guid("a")]);
    let second = asking(record.failed[&guid("a")].redelivery, later_on);
    assert_eq!(second, Redelivery::Asking { since: later_on, again: true });
    assert!(due(&with(second), MOST_ASKED, at(DAY)).is_empty(), "never a third time");
    let (record, _) = read(with(second), &[], at(DAY));
    assert_eq!(record.failed[&guid("a")].redelivery, Redelivery::Over);
    for (answer, expected) in [
        (Answer::Accepted, Redelivery::Asked { at: at(5) }),
        (Answer::NotMade, unclear),
        (Answer::Refused, Redelivery::Over),
        (Answer::Unclear, Redelivery::Asking { since: at(5), again: true }),
    ] {
        assert_eq!(answered(unclear, answer, at(5)), expected);
    }
}

#[test]
fn what_was_asked_for_is_known_until_the_log_is_read_beyond_it() {
    let late = later(at(1), OUTCOME_WITHIN);
    let (record, _) = read(with(Redelivery::Asked { at: at(1) }), &[], late);
    assert_eq!(record.failed.len(), 1, "the next look reads of it once more");
    let (record, _) = read(record, &[entry("b", 120, 202)], late);
    assert!(record.failed.is_empty());
}

#[test]
fn a_receiver_that_takes_nothing_is_tried_with_one() {
    let failed: Vec<_> = (0..20).rev().map(|at| entry(&format!("{at:02}"), at, 500)).collect();
    let (record, news) = read(found(), &failed, at(60));
    assert_eq!((news.failed, news.allowed), (20, 1));
    assert_eq!(due(&record, news.allowed, at(60)), [guid("00")]);
    let taken = [again("00", 61, 202)].into_iter().chain(failed).collect::<Vec<_>>();
    let (record, news) = read(record, &taken, at(90));
    assert_eq!((news.allowed, due(&record, news.allowed, at(90)).len()), (MOST_ASKED, 19));
    let (_, news) = read(found(), &[], at(60));
    assert_eq!(news.allowed, 1);
}

#[test]
fn more_failures_than_are_kept_are_taken_up_later() {
    let most = i64::try_from(MOST_FAILED).unwrap();
    let log: Vec<_> = (0..2 * most).rev().map(|at| entry(&at.to_string(), at, 500)).collect();
    let (record, news) = read(found(), &log, at(2 * most));
    assert_eq!((record.failed.len(), news.more, record.read_to), (MOST_FAILED, true, Some(at(most - 1))));
    assert_eq!(pause(&record, 10 * MINUTE, news.more, false, at(2 * most)), SOON);
}

#[test]
fn looks_follow_sooner_where_there_is_something_to_do() {
    let (interval, hour, day) = (2 * MINUTE, 3_600, DAY);
    let pause_of = |record: &HookRecord, now| pause(record, interval, false, false, at(now));
    let read_to = |second| HookRecord { read_to: Some(at(second)), ..found() };
    assert_eq!(pause_of(&read_to(0), 60), interval);
    assert_eq!(pause_of(&read_to(0), day - 1), interval);
    assert_eq!(pause_of(&read_to(0), day), interval * QUIET_FACTOR);
    assert_eq!(later(at(0), QUIET_AFTER), at(day));
    let (record, _) = read(HookRecord { read_to: None, ..found() }, &[], at(hour));
    assert_eq!(pause_of(&record, hour), interval, "nobody knows yet whether it is quiet");
    assert_eq!(pause_of(&with(Redelivery::Due), 60), SOON);
    assert_eq!(pause_of(&with(Redelivery::Asking { since: at(0), again: false }), 60), SOON);
    assert_eq!(pause_of(&with(Redelivery::Asked { at: at(0) }), day), interval);
    assert_eq!(pause_of(&HookRecord { found: Some(FoundHook::Absent), ..found() }, 60), SOUGHT_EVERY);
    assert_eq!(pause_of(&HookRecord { found: None, ..found() }, 60), SOON);
    let troubled = HookRecord { trouble: Some("NotFound".to_owned()), ..found() };
    assert_eq!(pause_of(&troubled, 60), SOUGHT_EVERY);
    assert_eq!(pause(&troubled, interval, false, true, at(60)), SOON);
    assert!(!is_sought(&found(), URL, at(60)));
    assert!(is_sought(&found(), URL, at(hour)) && is_sought(&found(), "https://elsewhere", at(60)));
    assert!(is_sought(&HookRecord { found: None, ..found() }, URL, at(60)));
}

/// What befalls a redelivery that is about to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is made, and this is what the receiver does.
    Made {
        taken: bool,
    },
    /// It is made, and GitHub never shows it.
    Hidden,
    NotMade,
    Refused,
    /// The answer is lost, or the process dies before it comes.
    Lost {
        made: bool,
        dies: bool,
    },
}

#[derive(Debug, Clone)]
enum Happening {
    /// A delivery whose attempt stands in the log so many seconds later.
    Delivery {
        taken: bool,
        shown_after: i64,
    },
    /// Somebody redelivers the one that came so many before.
    Person {
        back: usize,
        taken: bool,
    },
    /// A look: what befalls its redeliveries, one after the other.
    Look(Vec<Fate>),
    Pass(i64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => any::<bool>().prop_map(|taken| Fate::Made { taken }),
        1 => Just(Fate::Hidden),
        2 => Just(Fate::NotMade),
        1 => Just(Fate::Refused),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(made, dies)| Fate::Lost { made, dies }),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        5 => (prop::bool::weighted(0.4), 0..30_i64)
            .prop_map(|(taken, shown_after)| Happening::Delivery { taken, shown_after }),
        1 => (0..5_usize, any::<bool>()).prop_map(|(back, taken)| Happening::Person { back, taken }),
        4 => prop::collection::vec(fate(), 0..6).prop_map(Happening::Look),
        4 => (1..120_i64).prop_map(Happening::Pass),
    ]
}

/// GitHub, and the record as the store has it.
struct World {
    now: i64,
    /// Entries with when they are shown.
    log: Vec<(i64, WebhookDelivery)>,
    record: HookRecord,
    /// How often GitHub was asked for a delivery, and whether nobody knew that once.
    asked: BTreeMap<DeliveryId, (u32, bool)>,
    refused: Vec<DeliveryId>,
}

impl World {
    fn new() -> Self {
        let record = HookRecord { read_to: Some(at(0)), ..found() };
        Self { now: 0, log: Vec::new(), record, asked: BTreeMap::new(), refused: Vec::new() }
    }

    fn log(&mut self, delivery: DeliveryId, taken: bool, is_redelivery: bool, shown_after: i64) {
        let id = self.log.len() as u64;
        let status = if taken { 202 } else { 0 };
        let event = JOB_EVENT.to_owned();
        let attempt = WebhookDelivery { id, delivery, at: at(self.now), status, event, is_redelivery };
        self.log.push((self.now + shown_after, attempt));
    }

    fn shown(&self, since: Timestamp) -> Vec<WebhookDelivery> {
        let mut shown: Vec<_> =
            self.log.iter().filter(|(at, entry)| *at <= self.now && entry.at >= since).collect();
        shown.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.at, entry.id)));
        shown.into_iter().map(|(_, entry)| entry.clone()).collect()
    }

    fn look(&mut self, fates: &[Fate]) {
        let now = at(self.now);
        let log = self.shown(since(&self.record, now));
        let (mut record, news) = read(self.record.clone(), &log, now);
        let mut fates = fates.iter();
        for delivery in due(&record, news.allowed, now) {
            let before = record.failed[&delivery].redelivery;
            let is_settled = |entry: &WebhookDelivery| {
                entry.delivery == delivery && (entry.is_redelivery || entry.is_taken())
            };
            assert!(!log.iter().any(is_settled), "{delivery} needs nothing more");
            record.failed.get_mut(&delivery).unwrap().redelivery = asking(before, now);
            self.record = record.clone();
            let fate = fates.next().copied().unwrap_or(Fate::Made { taken: true });
            let Some(answer) = self.ask(&delivery, fate) else { return };
            record.failed.get_mut(&delivery).unwrap().redelivery = answered(before, answer, now);
        }
        self.record = record;
    }

    /// GitHub is asked; none where the process died.
    fn ask(&mut self, delivery: &DeliveryId, fate: Fate) -> Option<Answer> {
        let (made, taken) = match fate {
            Fate::Made { taken } => (true, Some(taken)),
            Fate::Hidden => (true, None),
            Fate::NotMade | Fate::Refused => (false, None),
            Fate::Lost { made, .. } => (made, Some(true)),
        };
        let (calls, unclear) = self.asked.entry(delivery.clone()).or_default();
        *calls += u32::from(made);
        *unclear |= matches!(fate, Fate::Lost { .. });
        if let Some(taken) = taken.filter(|_| made) {
            self.log(delivery.clone(), taken, true, 5);
        }
        match fate {
            Fate::Made { .. } | Fate::Hidden => Some(Answer::Accepted),
            Fate::NotMade => Some(Answer::NotMade),
            Fate::Refused => {
                self.refused.push(delivery.clone());
                Some(Answer::Refused)
            }
            Fate::Lost { dies: false, .. } => Some(Answer::Unclear),
            Fate::Lost { dies: true, .. } => None,
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Delivery { taken, shown_after } => {
                let name = self.log.len().to_string();
                self.log(guid(&name), taken, false, shown_after);
            }
            Happening::Person { back, taken } => {
                if let Some((_, entry)) = self.log.iter().rev().nth(back).cloned() {
                    self.log(entry.delivery, taken, true, 0);
                }
            }
            Happening::Look(fates) => self.look(&fates),
            Happening::Pass(seconds) => self.now += seconds,
        }
    }

    fn check(&self) {
        for (delivery, (calls, unclear)) in &self.asked {
            let most = if *unclear { 2 } else { 1 };
            assert!(*calls <= most, "{delivery} was asked for {calls} times");
        }
    }

    /// Nothing is left that could be asked for.
    fn check_all_were_asked_for(&self) {
        for (_, entry) in &self.log {
            let attempts = || self.log.iter().filter(|(_, other)| other.delivery == entry.delivery);
            let is_settled = attempts().any(|(_, entry)| entry.is_taken() || entry.is_redelivery);
            let was_asked = self.asked.get(&entry.delivery).is_some_and(|(calls, _)| *calls > 0);
            let is_refused = self.refused.contains(&entry.delivery);
            // Two questions that nobody knows of, neither of which was made.
            let is_given_up = self.asked.get(&entry.delivery).is_some_and(|(_, unclear)| *unclear);
            assert!(is_settled || was_asked || is_refused || is_given_up, "{entry:?} was forgotten");
        }
    }
}

proptest! {
    #[test]
    fn each_failed_delivery_is_asked_for_once(happenings in prop::collection::vec(happening(), 0..60)) {
        let mut world = World::new();
        for happening in happenings {
            world.happen(happening);
            world.check();
        }
        for _ in 0..40 {
            world.now += 61;
            world.look(&[]);
            world.check();
        }
        world.check_all_were_asked_for();
    }
}
