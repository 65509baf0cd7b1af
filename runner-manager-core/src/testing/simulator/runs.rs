//! Workflow runs, and the routes by which runs and jobs are read and acted upon.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Job, JobId, JobStatus, NotPossible, RunId, Simulator,
    jobs::{Conclusion, workflow_path},
    reply::{Call, Page, Reply, time},
    shapes::{self, WEB},
};

/// What a listing by status ends at, whatever `total_count` says.
const SEARCH_LIMIT: usize = 1_000;
pub(super) const HEAD_SHA: &str = "3484a3fb816e0859fd6e1cea078d76385ff50625";

#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) repository: u64,
    number: u64,
    workflow: String,
    pub(super) attempt: u64,
    created_at: Timestamp,
    started_at: Timestamp,
    updated_at: Timestamp,
    /// Of each job the newest that took its place.
    pub(super) latest: Vec<JobId>,
    all: Vec<JobId>,
    tally: Tally,
    indexed: Vec<&'static str>,
}

/// How many of the latest jobs are where.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    waiting: u64,
    queued: u64,
    in_progress: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
    skipped: u64,
}

impl Tally {
    fn of(job: &Job) -> Self {
        let is = |status| u64::from(job.status == status);
        let ended = |conclusion| u64::from(job.conclusion == Some(conclusion));
        Self {
            waiting: is(JobStatus::Waiting),
            queued: is(JobStatus::Queued),
            in_progress: is(JobStatus::InProgress),
            completed: is(JobStatus::Completed),
            failed: ended(Conclusion::Failure),
            cancelled: ended(Conclusion::Cancelled),
            skipped: ended(Conclusion::Skipped),
        }
    }

    fn each(&mut self, other: Self, change: fn(u64, u64) -> u64) {
        self.waiting = change(self.waiting, other.waiting);
        self.queued = change(self.queued, other.queued);
        self.in_progress = change(self.in_progress, other.in_progress);
        self.completed = change(self.completed, other.completed);
        self.failed = change(self.failed, other.failed);
        self.cancelled = change(self.cancelled, other.cancelled);
        self.skipped = change(self.skipped, other.skipped);
    }
}

impl Run {
    pub(super) fn new(id: RunId, repository: u64, number: u64, workflow: &str, now: Timestamp) -> Self {
        Self {
            id,
            repository,
            number,
            workflow: workflow.to_owned(),
            attempt: 1,
            created_at: now,
            started_at: now,
            updated_at: now,
            latest: Vec::new(),
            all: Vec::new(),
            tally: Tally::default(),
            indexed: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, job: &Job) {
        self.latest.push(job.id);
        self.all.push(job.id);
        self.add_tally(job);
    }

    pub(super) fn add_tally(&mut self, job: &Job) {
        self.tally.each(Tally::of(job), |a, b| a + b);
    }

    pub(super) fn remove_tally(&mut self, job: &Job) {
        self.tally.each(Tally::of(job), |a, b| a - b);
    }

    /// Makes room for new jobs in place of these.
    pub(super) fn begin_attempt(&mut self, replaced: &[Job], now: Timestamp) {
        self.attempt += 1;
        self.started_at = now;
        for job in replaced {
            self.remove_tally(job);
        }
        self.latest.retain(|id| !replaced.iter().any(|job| job.id == *id));
    }

    /// In progress as soon as one job has begun: such a run may still have queued jobs.
    pub(super) fn status(&self) -> JobStatus {
        let Tally { waiting, queued, in_progress, completed, .. } = self.tally;
        if in_progress > 0 || (completed > 0 && waiting + queued > 0) {
            JobStatus::InProgress
        } else if queued > 0 {
            JobStatus::Queued
        } else if waiting > 0 {
            JobStatus::Waiting
        } else {
            JobStatus::Completed
        }
    }

    fn conclusion(&self) -> Option<Conclusion> {
        let Tally { completed, failed, cancelled, skipped, .. } = self.tally;
        match self.status() {
            JobStatus::Completed if failed > 0 => Some(Conclusion::Failure),
            JobStatus::Completed if cancelled > 0 => Some(Conclusion::Cancelled),
            JobStatus::Completed if skipped == completed => Some(Conclusion::Skipped),
            JobStatus::Completed => Some(Conclusion::Success),
            JobStatus::Waiting | JobStatus::Queued | JobStatus::InProgress => None,
        }
    }
}

impl Simulator {
    pub(super) fn reindex_run(&mut self, id: RunId, at: Timestamp) {
        let run = self.jobs.runs.get_mut(&id).expect("each job has a run");
        run.updated_at = at;
        let conclusion = run.conclusion().map(Conclusion::word);
        let words: Vec<&'static str> = std::iter::once(run.status().word()).chain(conclusion).collect();
        if run.indexed == words {
            return;
        }
        let repository = run.repository;
        for word in std::mem::replace(&mut run.indexed, words.clone()) {
            if let Some(runs) = self.jobs.runs_by_word.get_mut(&(repository, word)) {
                runs.remove(&id);
            }
        }
        for word in words {
            self.jobs.runs_by_word.entry((repository, word)).or_default().insert(id);
        }
    }

    /// Routes under `/repos/{owner}/{repo}/actions/runs`.
    pub(super) fn run_route(&mut self, repository: u64, rest: &[&str], call: &Call<'_>) -> Reply {
        let [id, rest @ ..] = rest else {
            return if call.method == "GET" { self.list_runs(repository, call) } else { Reply::not_found() };
        };
        let run = id.parse().ok().and_then(|id| self.jobs.runs.get(&RunId(id)));
        let Some(run) = run.filter(|run| run.repository == repository) else { return Reply::not_found() };
        let (id, attempt) = (run.id, run.attempt);
        let now = call.now;
        match (call.method, rest) {
            ("GET", []) => Reply::ok(self.run_json(id)),
            ("GET", ["jobs"]) => self.list_jobs(id, call),
            ("GET", ["attempts", number, "jobs"]) => match number.parse() {
                Ok(number) if (1..=attempt).contains(&number) => self.list_attempt(id, number, call),
                _ => Reply::not_found(),
            },
            ("POST", ["cancel"]) => accepted(self.cancel_run(id, now)),
            ("POST", ["force-cancel"]) => accepted(self.force_cancel_run(id, now)),
            ("POST", ["rerun"]) => rerun(&self.rerun_run(id, now)),
            ("POST", ["rerun-failed-jobs"]) => rerun(&self.rerun_failed_jobs(id, now)),
            _ => Reply::not_found(),
        }
    }

    /// Routes under `/repos/{owner}/{repo}/actions/jobs`.
    pub(super) fn job_route(&mut self, repository: u64, rest: &[&str], call: &Call<'_>) -> Reply {
        let [id, rest @ ..] = rest else { return Reply::not_found() };
        let job = id.parse().ok().and_then(|id| self.jobs.by_id.get(&JobId(id)));
        let Some(job) = job.filter(|job| job.repository_id == repository) else { return Reply::not_found() };
        let id = job.id;
        match (call.method, rest) {
            ("GET", []) => Reply::ok(self.job_json(job)),
            ("POST", ["rerun"]) => rerun(&self.rerun_job(id, call.now)),
            _ => Reply::not_found(),
        }
    }

    /// By `status` (which may be a conclusion, too), newest first. Other filters are not looked at.
    fn list_runs(&mut self, repository: u64, call: &Call<'_>) -> Reply {
        let word = call.query.get("status").map_or("", String::as_str);
        let until =
            call.query.get("created").and_then(|range| range.strip_prefix("<=")?.parse::<Timestamp>().ok());
        let in_range = |id: &RunId| {
            until.is_none_or(|until| self.jobs.runs[id].created_at.as_second() <= until.as_second())
        };
        let runs = self.jobs.runs_by_word.get(&(repository, known_word(word)));
        let newest_first: Vec<RunId> =
            runs.into_iter().flat_map(|runs| runs.iter().rev().copied()).filter(in_range).collect();
        let total = newest_first.len();
        let reach = if word.is_empty() && until.is_none() { total } else { SEARCH_LIMIT };
        let newest_first = newest_first.into_iter().take(reach);
        let page = Page::cut(call, &self.settings.base_url, newest_first, total.min(reach));
        let mut page = page.with_holes(call, &mut self.chance, &mut self.books);
        page.total = total;
        page.map(|id| self.run_json(id)).counted("workflow_runs")
    }

    fn list_jobs(&mut self, run: RunId, call: &Call<'_>) -> Reply {
        let run = &self.jobs.runs[&run];
        let all = call.query.get("filter").is_some_and(|filter| filter == "all");
        let ids = if all { &run.all } else { &run.latest };
        let page = Page::cut(call, &self.settings.base_url, ids.iter().copied(), ids.len());
        let page = page.with_holes(call, &mut self.chance, &mut self.books);
        page.map(|id| self.job_json(&self.jobs.by_id[&id])).counted("jobs")
    }

    fn list_attempt(&mut self, run: RunId, attempt: u64, call: &Call<'_>) -> Reply {
        let of_attempt = |id: &&JobId| self.jobs.by_id[*id].attempt == attempt;
        let ids: Vec<JobId> = self.jobs.runs[&run].all.iter().filter(of_attempt).copied().collect();
        let page = Page::cut(call, &self.settings.base_url, ids.iter().copied(), ids.len());
        let page = page.with_holes(call, &mut self.chance, &mut self.books);
        page.map(|id| self.job_json(&self.jobs.by_id[&id])).counted("jobs")
    }

    fn run_json(&self, id: RunId) -> Value {
        let run = &self.jobs.runs[&id];
        let api = &self.settings.base_url;
        let repository = self.world.repository(run.repository);
        let minimal = shapes::minimal_repository(api, repository, self.world.account(repository.owner));
        let url = format!("{api}/repos/{}/actions/runs/{id}", repository.full_name);
        json!({
            "id": id,
            "name": run.workflow,
            "node_id": format!("WFR_{id}"),
            "head_branch": "main",
            "head_sha": HEAD_SHA,
            "path": workflow_path(&run.workflow),
            "display_title": run.workflow,
            "run_number": run.number,
            "run_attempt": run.attempt,
            "event": "push",
            "status": run.status().word(),
            "conclusion": run.conclusion().map(Conclusion::word),
            "workflow_id": run.repository,
            "url": url,
            "html_url": format!("{WEB}/{}/actions/runs/{id}", repository.full_name),
            "pull_requests": [],
            "created_at": time(run.created_at),
            "updated_at": time(run.updated_at),
            "run_started_at": time(run.started_at),
            "actor": shapes::sender(api),
            "triggering_actor": shapes::sender(api),
            "jobs_url": format!("{url}/jobs"),
            "logs_url": format!("{url}/logs"),
            "check_suite_url": format!("{api}/repos/{}/check-suites/{id}", repository.full_name),
            "artifacts_url": format!("{url}/artifacts"),
            "cancel_url": format!("{url}/cancel"),
            "rerun_url": format!("{url}/rerun"),
            "previous_attempt_url": null,
            "workflow_url": format!("{api}/repos/{}/actions/workflows/{}", repository.full_name, run.repository),
            "head_commit": null,
            "repository": minimal.clone(),
            "head_repository": minimal,
        })
    }

    /// A job in the form that REST and payloads share.
    pub(super) fn job_json(&self, job: &Job) -> Value {
        let Job { id, run, repository, .. } = job;
        let url = format!("{}/repos/{repository}", self.settings.base_url);
        // What ended without a runner shows the id 0 at GitHub, what still waits shows none.
        let nobody = (job.status == JobStatus::Completed).then_some(0);
        let runner = job.runner.as_ref();
        json!({
            "id": id,
            "run_id": run,
            "run_url": format!("{url}/actions/runs/{run}"),
            "run_attempt": job.attempt,
            "node_id": format!("CR_{id}"),
            "head_sha": HEAD_SHA,
            "head_branch": "main",
            "url": format!("{url}/actions/jobs/{id}"),
            "html_url": format!("{WEB}/{repository}/actions/runs/{run}/job/{id}"),
            "check_run_url": format!("{url}/check-runs/{id}"),
            "status": job.status.word(),
            "conclusion": job.conclusion.map(Conclusion::word),
            "created_at": time(job.created_at),
            "started_at": time(job.started_at.unwrap_or(job.created_at)),
            "completed_at": job.completed_at.map(time),
            "name": job.name,
            "workflow_name": job.workflow_name,
            "labels": job.labels,
            "steps": steps(job),
            "runner_id": runner.map_or(nobody, |runner| Some(runner.id.0)),
            "runner_name": runner.map(|runner| runner.name.as_str()).or(nobody.map(|_| "")),
            "runner_group_id": runner.map_or(nobody, |runner| Some(runner.group_id)),
            "runner_group_name": runner.map(|runner| runner.group_name.as_str()).or(nobody.map(|_| "")),
        })
    }
}

fn steps(job: &Job) -> Value {
    let Some(started_at) = job.started_at else { return json!([]) };
    json!([{
        "name": "Set up job",
        "status": if job.completed_at.is_some() { "completed" } else { "in_progress" },
        "conclusion": job.conclusion.map(Conclusion::word),
        "number": 1,
        "started_at": time(started_at),
        "completed_at": job.completed_at.map(time),
    }])
}

/// The word itself if it is one that runs are found under, else one that finds nothing.
fn known_word(word: &str) -> &'static str {
    let words =
        ["", "waiting", "queued", "in_progress", "completed", "success", "failure", "cancelled", "skipped"];
    words.into_iter().find(|known| *known == word).unwrap_or("none")
}

fn accepted(outcome: Result<(), NotPossible>) -> Reply {
    match outcome {
        Ok(()) => Reply::accepted(),
        Err(NotPossible::WrongState) => {
            Reply::error(StatusCode::CONFLICT, "Cannot cancel a workflow run that is completed.")
        }
        Err(NotPossible::Unknown) => Reply::not_found(),
    }
}

fn rerun<T>(outcome: &Result<T, NotPossible>) -> Reply {
    match outcome {
        Ok(_) => Reply::created(json!({})),
        Err(NotPossible::WrongState) => {
            Reply::error(StatusCode::FORBIDDEN, "This workflow run cannot be rerun: it is not completed.")
        }
        Err(NotPossible::Unknown) => Reply::not_found(),
    }
}
