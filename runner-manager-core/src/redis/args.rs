//! What a script is given: texts, with numbers and times written as scripts read them.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

/// The greatest number that a script counts with exactly: microseconds reach it in 2255.
const GREATEST: i64 = (1 << 53) - 1;

/// The longest duration, in microseconds, that a script can add to the present time: 142 years.
const LONGEST: u128 = 1 << 52;

/// A point in time as scripts are told it.
pub(super) fn microseconds(time: Timestamp) -> i64 {
    bounded(time.as_nanosecond().div_euclid(1000))
}

/// The same for what is ordered as text: what is before 1970 is all the same.
pub(super) fn microseconds_since_1970(time: Timestamp) -> i64 {
    microseconds(time).max(0)
}

fn bounded(microseconds: i128) -> i64 {
    let bounded = microseconds.clamp((-GREATEST).into(), GREATEST.into());
    i64::try_from(bounded).expect("what was bounded fits")
}

/// The arguments of one call.
#[derive(Debug, Default)]
pub(super) struct Args(Vec<Vec<u8>>);

impl Args {
    /// Arguments that begin with a text.
    pub(super) fn of(text: &str) -> Self {
        Self::default().text(text)
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        self.0.push(text.as_bytes().to_vec());
        self
    }

    /// A number; more than a script can count is as much as it can.
    pub(super) fn number(self, number: impl TryInto<i64>) -> Self {
        self.text(&number.try_into().unwrap_or(GREATEST).min(GREATEST).to_string())
    }

    /// A version or a claim's number, which scripts compare as text.
    pub(super) fn exactly(self, number: u64) -> Self {
        self.text(&number.to_string())
    }

    /// Nothing, where something may stand.
    pub(super) fn nothing(self) -> Self {
        self.text("")
    }

    pub(super) fn flag(self, flag: bool) -> Self {
        self.text(if flag { "1" } else { "0" })
    }

    /// A point in time by which something is ordered.
    pub(super) fn time(self, time: Timestamp) -> Self {
        self.text(&microseconds(time).to_string())
    }

    /// The same, as a text by which it is ordered.
    pub(super) fn time_as_text(self, time: Timestamp) -> Self {
        self.text(&format!("{:016}", microseconds_since_1970(time)))
    }

    /// A point in time before which nothing may happen.
    pub(super) fn not_before(self, time: Timestamp) -> Self {
        self.text(&bounded(-(-time.as_nanosecond()).div_euclid(1000)).to_string())
    }

    pub(super) fn duration(self, duration: Duration) -> Self {
        self.text(&duration.as_nanos().div_ceil(1000).min(LONGEST).to_string())
    }

    /// A record or a task, which scripts do not read.
    pub(super) fn body<T: Serialize>(mut self, body: &T) -> Self {
        self.0.push(serde_json::to_vec(body).expect("records are plain data, which always serializes"));
        self
    }

    /// The arguments as they are sent.
    pub(super) fn bytes(&self) -> Vec<&[u8]> {
        self.iter().collect()
    }

    /// The arguments, one after the other.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::Args;

    fn sent(args: &Args) -> Vec<&str> {
        args.bytes().into_iter().map(|bytes| std::str::from_utf8(bytes).unwrap()).collect()
    }

    #[test]
    fn times_are_microseconds() {
        let time = Timestamp::from_nanosecond(1_500_000_000_000_000_001).unwrap();
        let args = Args::default().time(time).not_before(time).duration(Duration::from_nanos(1500));
        assert_eq!(sent(&args), ["1500000000000000", "1500000000000001", "2"]);
        let early = ["1970-01-01T00:00:01Z", "1969-12-31T23:59:59Z"].map(|text| text.parse().unwrap());
        let args = Args::default().time(early[1]).time_as_text(early[0]).time_as_text(early[1]);
        assert_eq!(sent(&args), ["-1000000", "0000000001000000", "0000000000000000"]);
    }

    #[test]
    fn what_is_too_great_is_as_great_as_can_be() {
        let args = Args::default()
            .number(u64::MAX)
            .exactly(u64::MAX)
            .time(Timestamp::MAX)
            .time(Timestamp::MIN)
            .duration(Duration::MAX);
        let greatest = "9007199254740991";
        let least = "-9007199254740991";
        assert_eq!(sent(&args), [greatest, "18446744073709551615", greatest, least, "4503599627370496"]);
    }
}
