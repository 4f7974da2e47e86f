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

/// The mark of OpenAI's sealed thinking in an item that has got another identifier than its
/// own, which OpenAI wants back with it; its own and a full stop follow.
const MOVED: &str = "paceline.openai.";

/// The text for `encrypted_content` of the item `id`. `hidden` tells a [`Part::Hidden`] from
/// a [`Part::Thinking`] without text, which other vendors keep apart.
pub(super) fn text(seal: &Seal, hidden: bool, id: &str) -> String {
    if let (Vendor::OpenAi, Some(item)) =
        (seal.vendor, seal.item.as_deref().filter(|item| *item != id))
    {
        return format!("{MOVED}{item}.{}", seal.data);
    }
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
    if let Some((item, data)) = sealed.strip_prefix(MOVED).and_then(|moved| moved.split_once('.')) {
        let (item, data) = (Some(item.to_owned()), data.to_owned());
        return (Seal { vendor: Vendor::OpenAi, data, item }, None);
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
                part(shown.to_owned(), Some(text(&seal, whole, "rs_1")), Some("rs_1".to_owned()))
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
        let seal =
            Seal { vendor: Vendor::OpenAi, data: "x.y".to_owned(), item: Some("rs_1".to_owned()) };
        let moved = text(&seal, true, "rs_2");
        assert_ne!(moved, seal.data);
        assert_eq!(
            part(String::new(), Some(moved), Some("rs_2".to_owned())),
            Some(Part::Hidden { seal })
        );
    }
}
