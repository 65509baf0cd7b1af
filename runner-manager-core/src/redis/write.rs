//! A write as the arguments of `apply.lua`: bodies as JSON, and beside them what the script counts and orders
//! by.

use super::args::Args;
use super::job;
use crate::domain::{Runner, Scope};
use crate::queue::{NewTask, Priority};
use crate::store::{Change, Expected, Retention, Version, Write};

/// The arguments of a write.
pub(super) fn arguments(write: &Write, keep: &Retention) -> Args {
    let args = Args::of(write.operation.as_str());
    let args = match &write.claim {
        Some(token) => args.text(&token.key).exactly(token.number),
        None => args.nothing().nothing(),
    };
    let args = args
        .flag(write.ends_claim)
        .flag(write.on_trust)
        .number(keep.operations)
        .duration(keep.operations_for)
        .number(keep.completed_jobs)
        .duration(keep.completed_jobs_for)
        .number(keep.ended_runners)
        .duration(keep.ended_runners_for)
        .number(write.changes.len());
    let args = write.changes.iter().fold(args, change);
    tasks(args, &write.tasks)
}

/// Adds tasks that are to be queued.
pub(super) fn tasks(args: Args, tasks: &[NewTask]) -> Args {
    tasks.iter().fold(args, |args, new| {
        let args = args.text(&new.task.key()).text(new.task.lane().as_str());
        let args = match new.not_before {
            Some(time) => args.not_before(time),
            None => args.nothing(),
        };
        let rank = match new.priority {
            Priority::High => 0,
            Priority::Normal => 1,
            Priority::Low => 2,
        };
        args.number(rank).body(&new.task)
    })
}

/// A scope as its runners are listed: without case.
pub(super) fn scope_key(scope: &Scope) -> String {
    scope.to_string().to_ascii_lowercase()
}

fn change(args: Args, change: &Change) -> Args {
    match change {
        Change::PutGroup { record, expected } => {
            let args = expect(args.text("G").text(record.spec.name.as_str()), *expected);
            args.number(record.spec.bounds.max()).flag(record.draining.is_some()).body(record)
        }
        Change::RemoveGroup { name, expected } => args.text("g").text(name.as_str()).exactly(expected.0),
        Change::ReserveRunner { runner: made } => runner(args.text("R"), made),
        Change::AdoptRunner { runner: made } => runner(args.text("A"), made),
        Change::PutRunner { runner: after, expected } => runner(args.text("P"), after).exactly(expected.0),
        Change::EndRunner { ended, expected } => {
            args.text("E").text(ended.name.as_str()).exactly(expected.0).time(ended.ended_at).body(ended)
        }
        Change::PutJob { job, expected } => {
            let args = args.text("J").text(&job::key(job.id)).text(&job.id.to_string());
            job::record(expect(args, *expected), job)
        }
        Change::PutHook { record, expected } => {
            expect(args.text("H").text(&record.place.key()), *expected).body(record)
        }
        Change::RemoveHook { place, expected } => args.text("h").text(&place.key()).exactly(expected.0),
        Change::PutDeployment { record, expected } => expect(args.text("D"), *expected).body(record),
        Change::Trust { incarnation } => args.text("T").text(incarnation.as_str()),
    }
}

fn expect(args: Args, expected: Expected) -> Args {
    match expected {
        Expected::Absent => args.nothing(),
        Expected::Version(Version(version)) => args.exactly(version),
    }
}

fn runner(args: Args, runner: &Runner) -> Args {
    args.text(runner.name.as_str())
        .text(runner.group.as_str())
        .number(runner.phase() as u8)
        .time(runner.since)
        .text(runner.backend.as_str())
        .text(&scope_key(&runner.scope))
        .body(runner)
}
