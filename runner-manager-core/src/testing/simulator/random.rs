//! The one source of chance. `SplitMix64` rather than a generator of `rand`: a seed that somebody wrote
//! down must give the same run with every later version of this crate.

use jiff::SignedDuration;

#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// True with this probability. Draws nothing for 0 and 1, so that a fault that is off changes nothing.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        if probability >= 1.0 {
            return true;
        }
        let thirty_two_bits = u32::try_from(self.next() >> 32).expect("the upper half of 64 bits fits 32");
        f64::from(thirty_two_bits) / 4_294_967_296.0 < probability
    }

    /// A duration between the two, both included, in steps of a microsecond.
    pub(super) fn between(&mut self, min: SignedDuration, max: SignedDuration) -> SignedDuration {
        let span = (max - min).as_micros().max(0).unsigned_abs();
        let steps = u128::from(self.next()) % (span + 1);
        min + SignedDuration::from_micros(i64::try_from(steps).unwrap_or(i64::MAX))
    }

    /// 32 hexadecimal digits.
    pub(super) fn hex(&mut self) -> String {
        format!("{:016x}{:016x}", self.next(), self.next())
    }

    /// A version 4 UUID, the form of a delivery's `guid`.
    pub(super) fn guid(&mut self) -> String {
        let digits = self.hex();
        format!(
            "{}-{}-4{}-a{}-{}",
            &digits[..8],
            &digits[8..12],
            &digits[13..16],
            &digits[17..20],
            &digits[20..]
        )
    }
}
