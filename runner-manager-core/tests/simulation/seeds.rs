//! Many seeds, one seed, and the same seed twice.

use super::plan::Plan;
use super::run::run;

#[test]
fn nothing_goes_wrong_where_nothing_goes_wrong() {
    for seed in 0..20 {
        let outcome = run(Plan::calm(seed), false);
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}
