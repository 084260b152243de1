//! Durations, sizes, counts and shares as text: three significant digits, the unit next to the number.

use std::time::Duration;

/// `850 us`, `12.3 ms`, `1.25 s`, `2 min 5 s`, `1 h 4 min`; from nanoseconds.
pub fn duration(ns: u64) -> String {
    const STEPS: [(u64, &str); 4] = [(1, "ns"), (1_000, "us"), (1_000_000, "ms"), (1_000_000_000, "s")];
    let seconds = round_div(ns, 1_000_000_000);
    if seconds >= 3600 {
        let minutes = round_div(ns, 60_000_000_000);
        return format!("{} h {} min", minutes / 60, minutes % 60);
    }
    if seconds >= 60 {
        return format!("{} min {} s", seconds / 60, seconds % 60);
    }
    // 999.6 us would be set as `1000 us`: it belongs to the next unit.
    let step = STEPS.iter().find(|(one, _)| ns as f64 / *one as f64 <= 999.5).unwrap_or(&STEPS[3]);
    format!("{} {}", significant(ns as f64 / step.0 as f64), step.1)
}

/// `1250us`: whole microseconds without a blank, the form of one-line events.
pub fn micros(ns: u64) -> String {
    format!("{}us", round_div(ns, 1_000))
}

/// `87ms`: whole milliseconds without a blank; under 10 ms with one decimal, `1.3ms`.
pub fn millis(ns: u64) -> String {
    if ns < 9_950_000 {
        return format!("{}ms", trim_zeroes(format!("{:.1}", ns as f64 / 1e6)));
    }
    format!("{}ms", round_div(ns, 1_000_000))
}

/// A time as people write it: `5`, `2.5s`, `500ms`, `2m`, `1h`; without a unit, seconds. `None` for anything else.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let time = Duration::try_from_secs_f64(number.trim_end().parse::<f64>().ok()? * seconds).ok()?;
    (!time.is_zero()).then_some(time)
}

/// `5s`, `2.5s`, `500ms`: a time that was asked for, without a blank.
pub fn asked(time: Duration) -> String {
    if time.as_millis() < 1_000 { format!("{}ms", time.as_millis()) } else { format!("{}s", time.as_secs_f64()) }
}

/// `1,204`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `4,310/s`: `value` events in `ns` nanoseconds; under 10 a second with three digits, `0.33/s`.
pub fn rate(value: u64, ns: u64) -> String {
    let per_second = per_second(value, ns);
    if per_second >= 9.995 || value == 0 {
        return format!("{}/s", count(per_second.round() as u64));
    }
    format!("{}/s", significant(per_second))
}

/// Events per second; 0 for an empty interval.
pub fn per_second(value: u64, ns: u64) -> f64 {
    if ns == 0 { 0.0 } else { value as f64 * 1e9 / ns as f64 }
}

/// `71 %`, `0.4 %`, `99.4 %`. Says `0 %` and `100 %` only when it is exactly so: `<0.1 %`, `>99.9 %`.
pub fn share(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".into();
    }
    if part == whole {
        return "100 %".into();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    match percent {
        p if p < 0.05 => "<0.1 %".into(),
        p if (99.95..100.0).contains(&p) => ">99.9 %".into(),
        p if p < 9.95 || (99.0..100.0).contains(&p) => format!("{} %", trim_zeroes(format!("{p:.1}"))),
        p => format!("{} %", count(p.round() as u64)),
    }
}

/// `812 B`, `1.5 MiB`, `12.3 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut size = value as f64;
    let mut unit = 0;
    // 1023.6 would be set as `1024`: it belongs to the next unit.
    while size >= 1023.5 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{} {}", significant(size), UNITS[unit])
}

/// `+1.5 MiB`, `-4 KiB`, `0 B`.
pub fn growth(value: i64) -> String {
    let sign = match value {
        0 => "",
        v if v > 0 => "+",
        _ => "-",
    };
    format!("{sign}{}", bytes(value.unsigned_abs()))
}

/// `1 thread`, `6 threads`.
pub fn plural(value: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(value), if value == 1 { "" } else { "s" })
}

/// The slot of a value in a log2 histogram: floor(log2(value)), 0 for 0 and 1.
pub fn log2_slot(value: u64) -> usize {
    value.max(1).ilog2() as usize
}

/// First and last value of a slot: `(0, 1)`, `(2, 3)`, `(4, 7)`; slots past 63 are those of 63.
pub fn log2_bounds(slot: usize) -> (u64, u64) {
    match slot {
        0 => (0, 1),
        1..=62 => (1 << slot, (1 << (slot + 1)) - 1),
        _ => (1 << 63, u64::MAX),
    }
}

fn round_div(value: u64, by: u64) -> u64 {
    value / by + u64::from(value % by >= by.div_ceil(2))
}

/// Three significant digits without trailing zeroes: `850`, `12.3`, `1.25`, `4.2`.
fn significant(value: f64) -> String {
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    trim_zeroes(format!("{value:.decimals$}"))
}

fn trim_zeroes(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn asked_times_parse() {
        let millis = |text| super::parse_duration(text).map(|time| time.as_millis());
        assert_eq!(millis("5"), Some(5_000));
        assert_eq!(millis("5.0"), Some(5_000));
        assert_eq!(millis("2.5s"), Some(2_500));
        assert_eq!(millis("200ms"), Some(200));
        assert_eq!(millis("2m"), Some(120_000));
        for bad in ["", "0", "-1", "s", "5 parsecs", "1e400", "nan", "inf"] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }

    use super::*;

    #[test]
    fn durations_have_three_digits_and_the_right_unit() {
        for (ns, expected) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1 us"),
            (4_200, "4.2 us"),
            (850_000, "850 us"),
            (999_600, "1 ms"),
            (12_345_678, "12.3 ms"),
            (99_960_000, "100 ms"),
            (1_250_000_000, "1.25 s"),
            (18_349_000_000, "18.3 s"),
            (59_960_000_000, "1 min 0 s"),
            (125_000_000_000, "2 min 5 s"),
            (3_840_000_000_000, "1 h 4 min"),
        ] {
            assert_eq!(duration(ns), expected, "{ns} ns");
        }
    }

    #[test]
    fn event_forms_have_no_blank() {
        assert_eq!(micros(1_250_400), "1250us");
        assert_eq!(millis(87_400_000), "87ms");
        assert_eq!(millis(1_340_000), "1.3ms");
        assert_eq!(millis(9_960_000), "10ms");
        assert_eq!(millis(40_000), "0ms");
    }

    #[test]
    fn counts_have_separators() {
        for (value, expected) in [
            (0, "0"),
            (999, "999"),
            (1_204, "1,204"),
            (1_000_000, "1,000,000"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(count(value), expected);
        }
        assert_eq!(plural(1, "thread"), "1 thread");
        assert_eq!(plural(0, "thread"), "0 threads");
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate(12_930, 3_000_000_000), "4,310/s");
        assert_eq!(rate(1, 3_000_000_000), "0.33/s");
        assert_eq!(rate(0, 3_000_000_000), "0/s");
        assert_eq!(rate(7, 0), "0/s");
    }

    #[test]
    fn shares_never_claim_all_or_nothing() {
        for (part, whole, expected) in [
            (0, 10, "0 %"),
            (10, 10, "100 %"),
            (71, 100, "71 %"),
            (4, 1_000, "0.4 %"),
            (994, 1_000, "99.4 %"),
            (1, 1_000_000, "<0.1 %"),
            (999_999, 1_000_000, ">99.9 %"),
            (3, 2, "150 %"),
            (1, 0, "0 %"),
        ] {
            assert_eq!(share(part, whole), expected, "{part} of {whole}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (value, expected) in
            [(812, "812 B"), (1_572_864, "1.5 MiB"), (1_048_575, "1 MiB"), (1_024, "1 KiB"), (u64::MAX, "16 EiB")]
        {
            assert_eq!(bytes(value), expected);
        }
        assert_eq!(growth(1_572_864), "+1.5 MiB");
        assert_eq!(growth(-4096), "-4 KiB");
        assert_eq!(growth(i64::MIN), "-8 EiB");
    }

    #[test]
    fn slots_and_bounds_agree() {
        for value in [0, 1, 2, 3, 4, 1_023, 1_024, u64::MAX / 2, u64::MAX] {
            let (low, high) = log2_bounds(log2_slot(value));
            assert!((low..=high).contains(&value), "{value} in {low}..={high}");
        }
        assert_eq!(log2_bounds(6), (64, 127));
    }
}
