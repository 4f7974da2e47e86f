//! Calls of a code service as CSV: times and lengths only, so each prompt is taken to be
//! unlike every other.

use std::time::Duration;

use super::{Kind, Lines, Parsed, Run, TraceCall, TraceError, mooncake};

/// Tokens of a block. The format has none; this one costs little and suits any length.
const BLOCK_TOKENS: u32 = 64;

const HINT: &str = "a line holds TIMESTAMP (YYYY-MM-DD hh:mm:ss.fffffff), ContextTokens, \
    GeneratedTokens";

pub(super) fn read(head: &str, lines: &mut Lines<'_>) -> Result<Parsed, TraceError> {
    if !head.eq_ignore_ascii_case("TIMESTAMP,ContextTokens,GeneratedTokens") {
        return Err(lines.error(format!("unknown columns `{head}`"), HINT));
    }
    let mut calls = Vec::new();
    while let Some(line) = lines.next()? {
        let fields: Vec<_> = line.split(',').map(str::trim).collect();
        let [time, input, output] = fields[..] else {
            return Err(lines.error(format!("{} columns instead of 3", fields.len()), HINT));
        };
        let at = nanos(time)
            .ok_or_else(|| lines.error(format!("`TIMESTAMP` is `{time}`, no time"), HINT))?;
        let number = |name: &str, text: &str| {
            text.parse::<u32>()
                .map_err(|error| lines.error(format!("`{name}` is `{text}`: {error}"), HINT))
        };
        let input = number("ContextTokens", input)?.max(1);
        calls.push((at, lines.number, input, number("GeneratedTokens", output)?));
    }
    calls.sort_by_key(|call| (call.0, call.1));
    let start = calls.first().map_or(0, |call| call.0);
    let sessions = calls
        .into_iter()
        .map(|(at, line, input_tokens, output)| {
            // No prompt has a million blocks, so ids of different calls never meet.
            let run =
                Run { start: (line as u64) << 32, blocks: input_tokens.div_ceil(BLOCK_TOKENS) };
            let call = TraceCall {
                at: Duration::from_nanos(at - start),
                think: Duration::ZERO,
                joins: Vec::new(),
                input_tokens,
                output_tokens: output.max(1),
                blocks: vec![run],
            };
            mooncake::single(format!("call-{line}"), 0, call)
        })
        .collect();
    Ok(Parsed { kind: Kind::Open { tick: Duration::ZERO }, block_tokens: BLOCK_TOKENS, sessions })
}

/// Nanoseconds since 1970 of `YYYY-MM-DD hh:mm:ss[.f…]`.
fn nanos(text: &str) -> Option<u64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let sound = (1970..2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && fraction.len() <= 9
        && fraction.bytes().all(|digit| digit.is_ascii_digit());
    if !sound {
        return None;
    }
    // Days since 1970 by the civil calendar: years begin in March, so that the leap day is
    // the last, and months of 31 and 30 days alternate as 153 days in five.
    let (shifted_year, shifted_month) =
        if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = shifted_year * 365 + leap_days + (153 * shifted_month + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1_000_000_000 + format!("{fraction:0<9}").parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("1970-01-01 00:00:00", Some(0)),
            ("1970-03-01 00:00:01.5", Some(59 * 86_400_000_000_000 + 1_500_000_000)),
            // `date -u -d '2023-11-16 18:17:03' +%s`
            ("2023-11-16 18:17:03.9799600", Some(1_700_158_623_979_960_000)),
            ("2024-02-29 23:59:59", Some(1_709_251_199_000_000_000)),
            ("2024-02-29", None),
            ("2024-13-01 00:00:00", None),
            ("2024-12-01 24:00:00", None),
            ("soon", None),
        ] {
            assert_eq!(nanos(text), expected, "{text}");
        }
    }
}
