//! Seals of other vendors in the signature of a thinking block, the one place where this
//! dialect's clients give something back unchanged.

use crate::neutral::{Seal, Vendor};

/// The marks of other vendors' seals; the last is that of a call's, which stands in a block
/// of its own before the call.
const MARKS: [(Vendor, bool, &str); 3] = [
    (Vendor::OpenAi, false, "paceline.openai."),
    (Vendor::Google, false, "paceline.google."),
    (Vendor::Google, true, "paceline.google-call."),
];

/// The signature that stands for a seal; `call` where it is a call's.
pub(super) fn signature(seal: &Seal, call: bool) -> String {
    let mark = MARKS.iter().find(|(vendor, of_call, _)| *vendor == seal.vendor && *of_call == call);
    let item = seal.item.as_ref().map(|item| format!("{item}.")).unwrap_or_default();
    match mark {
        None => seal.data.clone(),
        Some((Vendor::OpenAi, _, mark)) => format!("{mark}{item}{}", seal.data),
        Some((_, _, mark)) => format!("{mark}{}", seal.data),
    }
}

/// The seal that a signature is, and whether it is a call's; `None` where it is empty.
pub(super) fn read(signature: &str) -> Option<(Seal, bool)> {
    if signature.is_empty() {
        return None;
    }
    for (vendor, call, mark) in MARKS {
        let Some(data) = signature.strip_prefix(mark) else { continue };
        let (item, data) = match data.split_once('.').filter(|_| vendor == Vendor::OpenAi) {
            Some((item, data)) => (Some(item.to_owned()), data),
            None => (None, data),
        };
        return Some((Seal { vendor, data: data.to_owned(), item }, call));
    }
    Some((Seal { vendor: Vendor::Anthropic, data: signature.to_owned(), item: None }, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_come_back_as_their_vendors() {
        for (vendor, item, call) in [
            (Vendor::Anthropic, None, false),
            (Vendor::OpenAi, Some("rs_1"), false),
            (Vendor::Google, None, false),
            (Vendor::Google, None, true),
        ] {
            let item = item.map(str::to_owned);
            let seal = Seal { vendor, data: "x.y=".to_owned(), item };
            assert_eq!(read(&signature(&seal, call)), Some((seal, call)));
        }
        assert_eq!(read(""), None);
    }
}
