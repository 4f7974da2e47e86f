//! Seals as `encrypted_content`, the one place where this dialect carries them.
//!
//! OpenAI's own go there as they are. Those of other vendors must come back with the next
//! turn too, or a model that thinks between its calls loses its thoughts; they carry a mark
//! by which they are told from OpenAI's, whose servers would refuse them.

use crate::neutral::{Part, Seal, Vendor};

/// The marks. OpenAI's sealed thinking is in base64, which has no full stop.
const MARKS: [(Vendor, bool, &str); 4] = [
    (Vendor::Anthropic, false, "paceline.anthropic."),
    (Vendor::Anthropic, true, "paceline.anthropic-hidden."),
    (Vendor::Google, false, "paceline.google."),
    (Vendor::Google, true, "paceline.google-hidden."),
];

/// The text for `encrypted_content`. `hidden` tells a [`Part::Hidden`] from a
/// [`Part::Thinking`] without text, which other vendors keep apart.
pub(super) fn text(seal: &Seal, hidden: bool) -> String {
    let mark = MARKS.iter().find(|(vendor, whole, _)| (*vendor, *whole) == (seal.vendor, hidden));
    mark.map_or_else(|| seal.data.clone(), |(_, _, mark)| format!("{mark}{}", seal.data))
}

/// The part that a reasoning item is: its shown text, its `encrypted_content`, its own
/// identifier. `None` where nothing of it is left: the storing server alone knows the rest.
pub(super) fn part(text: String, sealed: Option<String>, item: Option<String>) -> Option<Part> {
    let Some((seal, hidden)) = sealed.map(|sealed| read(sealed, item)) else {
        return (!text.is_empty()).then_some(Part::Thinking { text, seal: None });
    };
    // OpenAI does not tell the two apart: nothing shown is hidden.
    let hidden = hidden.unwrap_or(text.is_empty());
    Some(if hidden { Part::Hidden { seal } } else { Part::Thinking { text, seal: Some(seal) } })
}

/// The seal of a reasoning item of which something is shown.
pub(super) fn of(sealed: String, item: Option<String>) -> Seal {
    read(sealed, item).0
}

/// The seal, and whether its mark says that it is hidden.
fn read(sealed: String, item: Option<String>) -> (Seal, Option<bool>) {
    for (vendor, hidden, mark) in MARKS {
        if let Some(data) = sealed.strip_prefix(mark) {
            return (Seal { vendor, data: data.to_owned(), item }, Some(hidden));
        }
    }
    (Seal { vendor: Vendor::OpenAi, data: sealed, item }, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_come_back_as_their_vendors() {
        for vendor in [Vendor::Anthropic, Vendor::OpenAi, Vendor::Google] {
            let seal = Seal { vendor, data: "x.y".to_owned(), item: Some("rs_1".to_owned()) };
            let hidden = Part::Hidden { seal: seal.clone() };
            let back = |shown: &str, whole| {
                part(shown.to_owned(), Some(text(&seal, whole)), Some("rs_1".to_owned()))
            };
            assert_eq!(back("", true), Some(hidden.clone()));
            let thinking =
                |text: &str| Part::Thinking { text: text.to_owned(), seal: Some(seal.clone()) };
            assert_eq!(back("So.", false), Some(thinking("So.")));
            // Only OpenAI takes thinking without text for hidden.
            let empty = if vendor == Vendor::OpenAi { hidden } else { thinking("") };
            assert_eq!(back("", false), Some(empty));
        }
        assert_eq!(part(String::new(), None, None), None);
    }
}
