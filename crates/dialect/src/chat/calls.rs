//! The calls of a streamed answer, put together from deltas that servers number as they like.

use crate::neutral::Seal;

use crate::sse::EVENT_BYTES_MAX;

/// Most calls of one answer.
pub(super) const CALLS_MAX: usize = 1024;

/// A piece of a call, as it comes.
pub(super) struct Piece {
    pub(super) index: Option<u64>,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
    pub(super) seal: Option<Seal>,
}

/// The calls so far, in the order of their beginnings. At most one is open.
#[derive(Default)]
pub(super) struct Calls {
    all: Vec<Call>,
    /// Those before it are closed.
    pub(super) first_unclosed: usize,
    /// Bytes of arguments that were held back, for all calls together.
    held: usize,
}

/// A call.
pub(super) struct Call {
    index: Option<u64>,
    /// As the server gave it; empty where it gave none.
    pub(super) id: String,
    pub(super) name: String,
    /// What has come of its arguments while it was not open.
    pub(super) arguments: String,
    pub(super) seal: Option<Seal>,
    depth: Depth,
    /// Its beginning was told.
    pub(super) open: bool,
}

/// Where a piece belongs.
pub(super) enum Place {
    /// To the call of this number, which is not closed.
    Of(usize),
    /// To a closed call, to which nothing can be added.
    Closed,
    /// It begins a call.
    New,
}

impl Calls {
    /// The call to which a piece belongs. Places repeat at some servers (all calls are number
    /// 0), identifiers are missing at others, or another in each piece.
    pub(super) fn place(&self, piece: &Piece) -> Place {
        let found = self.all.iter().rposition(|call| {
            let here = piece.index.is_none() || call.index == piece.index;
            here && (piece.id.is_empty() || call.id == piece.id)
        });
        let found = match found {
            // Whoever gives a new identifier and no name goes on with the call at that place.
            None if piece.name.is_empty() && piece.index.is_some() => {
                self.all.iter().rposition(|call| call.index == piece.index)
            }
            // Without an identifier a name tells calls apart.
            Some(at) if piece.id.is_empty() && self.all[at].is_followed_by(piece) => None,
            found => found,
        };
        match found {
            None => Place::New,
            Some(at) if at < self.first_unclosed => Place::Closed,
            Some(at) => Place::Of(at),
        }
    }

    /// Begins a call; `None` where there are too many.
    pub(super) fn begin(&mut self, piece: &mut Piece) -> Option<usize> {
        if self.all.len() >= CALLS_MAX {
            return None;
        }
        self.all.push(Call {
            index: piece.index,
            id: std::mem::take(&mut piece.id),
            name: String::new(),
            arguments: String::new(),
            seal: None,
            depth: Depth::default(),
            open: false,
        });
        Some(self.all.len() - 1)
    }

    /// Whether more has been held back than any answer needs.
    pub(super) fn is_full(&self) -> bool {
        self.held > EVENT_BYTES_MAX
    }

    /// Adds a piece to a call; its arguments are returned where the call is open.
    pub(super) fn add(&mut self, at: usize, piece: Piece) -> Option<String> {
        let call = &mut self.all[at];
        if call.name.is_empty() {
            call.name = piece.name;
        }
        if call.seal.is_none() {
            call.seal = piece.seal;
        }
        call.depth.add(&piece.arguments);
        if call.open {
            return Some(piece.arguments).filter(|text| !text.is_empty());
        }
        self.held += piece.arguments.len();
        call.arguments.push_str(&piece.arguments);
        None
    }

    /// The first call that is not closed, with its number.
    pub(super) fn first(&mut self) -> Option<(usize, &mut Call)> {
        let at = self.first_unclosed;
        self.all.get_mut(at).map(|call| (at, call))
    }

    /// Whether the first call that is not closed is whole, and another one has begun.
    pub(super) fn may_close(&self) -> bool {
        let rest = &self.all[self.first_unclosed..];
        rest.len() > 1 && rest[0].open && rest[0].depth.is_whole()
    }

    /// Whether an open call lacks the end of its arguments.
    pub(super) fn is_unfinished(&self) -> bool {
        self.all[self.first_unclosed..].iter().any(|call| !call.depth.is_whole())
    }
}

impl Call {
    /// Whether a piece at the same place, without an identifier, begins another call.
    fn is_followed_by(&self, piece: &Piece) -> bool {
        if piece.name.is_empty() || self.name.is_empty() {
            return false;
        }
        // Some servers repeat the name in each piece.
        self.name != piece.name || (self.depth.is_whole() && !piece.arguments.trim().is_empty())
    }
}

/// How deep in its objects and lists a JSON text that grows is.
#[derive(Default)]
struct Depth {
    depth: usize,
    any: bool,
    in_text: bool,
    escaped: bool,
}

impl Depth {
    fn add(&mut self, json: &str) {
        for byte in json.bytes() {
            if self.in_text {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    self.any = true;
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    /// Whether an object has begun and ended.
    fn is_whole(&self) -> bool {
        self.any && self.depth == 0
    }
}
