//! A job as it stands in Redis: a line that scripts read, and its JSON, which does not repeat what the line and the
//! job's key tell. Jobs that have ended are most of what a deployment keeps.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::args::{Args, microseconds, microseconds_since_1970};
use super::reply::{self, unreadable};
use crate::domain::{JobId, JobState, WorkflowJob};
use crate::store::{StoreError, Versioned};

/// The key of a job: its number behind a letter for how many digits that has, so that keys are in the order of the
/// numbers.
pub(super) fn key(id: JobId) -> String {
    let digits = id.to_string();
    let letter = char::from(b'a' + u8::try_from(digits.len()).expect("a number has at most 20 digits"));
    format!("{letter}{digits}")
}

/// Adds what `apply.lua` makes a job's record of.
pub(super) fn record(args: Args, job: &WorkflowJob) -> Args {
    let args = args.time(job.created_at).time_as_text(job.recorded_at);
    let args = match &job.state {
        JobState::Queued { group } => args.text(group.as_ref().map_or("-", |group| group.as_str())).nothing(),
        JobState::Completed { at, .. } => args.nothing().time(*at),
        JobState::Waiting | JobState::Presumed { .. } | JobState::InProgress { .. } => {
            args.nothing().nothing()
        }
    };
    args.body(&body(job))
}

/// Reads a job's record.
pub(super) fn read(table: &str, key: &str, record: &[u8]) -> Result<Versioned<WorkflowJob>, StoreError> {
    let Versioned { value: mut body, version } = reply::record::<Value>(table, key, record)?;
    let (line, _) = reply::open(table, key, record)?;
    let told = told_by(key, line).ok_or_else(|| unreadable(table, key, None))?;
    for Told { part, name, value } in told {
        if let Some(part) = part_of(&mut body, part) {
            part.entry(name).or_insert(value);
        }
    }
    let value = serde_json::from_value(body);
    Ok(Versioned { value: value.map_err(|source| unreadable(table, key, Some(Box::new(source))))?, version })
}

/// A job's JSON. What would be told less exactly than it is stays in it.
fn body(job: &WorkflowJob) -> Value {
    let mut body = serde_json::to_value(job).expect("records are plain data, which always serializes");
    let ended = if let JobState::Completed { at, .. } = &job.state { Some(microseconds(*at)) } else { None };
    let told = told(job.id, microseconds(job.created_at), ended, microseconds_since_1970(job.recorded_at));
    for Told { part, name, value } in told.into_iter().flatten() {
        if let Some(part) = part_of(&mut body, part).filter(|part| part.get(name) == Some(&value)) {
            part.remove(name);
        }
    }
    body
}

/// Something that the key or the line of a job tells.
struct Told {
    /// The part of the JSON in which it would stand.
    part: &'static str,
    /// Its name there.
    name: &'static str,
    value: Value,
}

fn part_of<'b>(body: &'b mut Value, part: &str) -> Option<&'b mut Map<String, Value>> {
    body.pointer_mut(part)?.as_object_mut()
}

/// What a key and the fields of a line tell.
fn told_by<'l>(key: &str, line: impl Iterator<Item = &'l str>) -> Option<Vec<Told>> {
    let [_version, created, _list, ended, recorded] = line.collect::<Vec<_>>()[..] else { return None };
    let ended = if ended.is_empty() { None } else { Some(ended.parse().ok()?) };
    told(JobId(key.get(1..)?.parse().ok()?), created.parse().ok()?, ended, recorded.parse().ok()?)
}

fn told(id: JobId, created: i64, ended: Option<i64>, recorded: i64) -> Option<Vec<Told>> {
    let time = |part, name, microseconds| {
        let time = Timestamp::from_microsecond(microseconds).ok()?;
        Some(Told { part, name, value: time.to_string().into() })
    };
    let mut told = vec![
        Told { part: "", name: "id", value: id.0.into() },
        time("", "created_at", created)?,
        time("", "recorded_at", recorded)?,
    ];
    if let Some(ended) = ended {
        told.push(time("/state", "at", ended)?);
    }
    Some(told)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::{any, proptest};

    use super::super::args::Args;
    use super::{key, read, record};
    use crate::domain::{Conclusion, JobId, JobState, Labels, RunId, RunnerName, WorkflowJob};
    use crate::store::Version;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn job(created: &str, recorded: &str, state: JobState) -> WorkflowJob {
        WorkflowJob {
            id: JobId(61_234_500_000),
            run: RunId(17),
            attempt: 1,
            repository: "acme/app".parse().unwrap(),
            enterprise: None,
            public: false,
            name: "build".to_owned(),
            workflow: Some("CI".to_owned()),
            labels: Labels::parse(["linux"]).unwrap(),
            created_at: time(created),
            recorded_at: time(recorded),
            state,
            lost: None,
        }
    }

    fn completed(at: &str) -> JobState {
        JobState::Completed { conclusion: Conclusion::Success, runner: None, at: time(at) }
    }

    /// The record that `apply.lua` makes of a job, and its JSON.
    fn stored(job: &WorkflowJob) -> (String, String) {
        let args = record(Args::default(), job);
        let [created, recorded, list, ended, body] = args.bytes()[..] else { panic!("{args:?}") };
        let [created, recorded, list, ended, body] =
            [created, recorded, list, ended, body].map(|part| std::str::from_utf8(part).unwrap());
        (format!("1\t9\t{created}\t{list}\t{ended}\t{recorded}\n{body}"), body.to_owned())
    }

    fn read_back(job: &WorkflowJob, record: &str) -> WorkflowJob {
        let found = read("j", &key(job.id), record.as_bytes()).unwrap();
        assert_eq!(found.version, Version(9));
        found.value
    }

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_the_numbers(one in any::<u64>(), two in any::<u64>(), by in 0..64) {
            let (one, two) = (one >> by, two);
            assert_eq!(key(JobId(one)).cmp(&key(JobId(two))), one.cmp(&two));
        }
    }

    #[test]
    fn the_json_does_not_repeat_the_line() {
        let job =
            job("2026-11-24T12:00:00Z", "2026-11-24T12:00:00.123456Z", completed("2026-11-24T13:00:00.5Z"));
        let (record, body) = stored(&job);
        let short = serde_json::json!({
            "run": 17, "repository": "acme/app", "name": "build", "workflow": "CI", "labels": ["linux"],
            "state": { "status": "completed", "conclusion": "success" },
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), short);
        assert_eq!(read_back(&job, &record), job);
    }

    #[test]
    fn no_time_is_told_less_exactly_than_it_is() {
        let exact = "2026-11-24T12:00:00.123456Z";
        for odd in ["2026-11-24T12:00:00.123456789Z", "1969-12-31T23:59:59.5Z", "2999-01-01T00:00:00Z", exact]
        {
            let since = time(odd);
            for state in [
                completed(odd),
                JobState::Queued { group: None },
                JobState::InProgress { runner: "r".to_owned(), since },
                JobState::Presumed { runner: RunnerName::new("r").unwrap(), since },
            ] {
                for (created, recorded) in [(odd, exact), (exact, odd)] {
                    let job = job(created, recorded, state.clone());
                    assert_eq!(read_back(&job, &stored(&job).0), job);
                }
            }
        }
    }

    #[test]
    fn what_the_json_repeats_is_as_it_says() {
        let exact = "2026-11-24T12:00:00Z";
        let job = job(exact, exact, completed(exact));
        let (record, body) = stored(&job);
        let whole = serde_json::to_string(&job).unwrap();
        assert_eq!(read_back(&job, &record.replace(&body, &whole)), job);
        let other = whole.replace("12:00:00", "14:00:00");
        assert_eq!(read_back(&job, &record.replace(&body, &other)).created_at, time("2026-11-24T14:00:00Z"));
    }

    #[test]
    fn a_record_that_is_not_ours_is_named() {
        let exact = "2026-11-24T12:00:00Z";
        let record = stored(&job(exact, exact, JobState::Waiting)).0;
        for (key, record) in [
            ("l61234500000", record.replacen("\t9\t", "\t", 1)),
            ("l61234500000", record.replacen("1\t9\t", "1\t9\tsoon", 1)),
            ("l61234500000", record.replace('{', "[{")),
            ("l61234500000", "1\t9\t1\t\t\t1\n[]".to_owned()),
            ("seven", record),
        ] {
            let error = read("rm:{acme}:j", key, record.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("`rm:{acme}:j`") && error.contains(key), "{error}");
        }
    }
}
