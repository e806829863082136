//! What a page shows: runs the operators that place text and collects the lines it lies on. Everything that is not text is
//! passed over.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use lopdf::content::{Content, Operation};
use lopdf::{Dictionary, Object, ObjectId, Stream};

use super::bounds::unpacked;
use super::font::Font;
use super::lines::{Glyph, Page};
use super::{dictionary, member, number};
use crate::rag::read::Limits;

/// Forms (pieces of pages) inside forms: more are a loop.
const MAX_FORM_DEPTH: usize = 12;
/// Forms on a page, counted with those inside others: more are an attack.
const MAX_FORMS: usize = 20_000;
/// Graphics states saved at a time.
const MAX_SAVED: usize = 512;
/// Levels of the page tree above a page.
const MAX_PARENTS: usize = 64;
/// Operators between two looks at the clock.
const OPERATORS_PER_CHECK: usize = 1_024;

/// Why reading ends before the last page.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    TooSlow,
    TooLarge,
}

/// Reads the pages of one document.
pub struct Interpreter<'a> {
    pdf: &'a lopdf::Document,
    deadline: Instant,
    bytes_left: usize,
    n_forms: usize,
    fonts: HashMap<ObjectId, Rc<Font>>,
}

/// Row vectors times this: `[a b c d e f]` as the format writes them.
#[derive(Debug, Clone, Copy)]
struct Matrix([f64; 6]);

#[derive(Clone)]
struct State {
    transform: Matrix,
    font: Option<Rc<Font>>,
    size: f64,
    character_spacing: f64,
    word_spacing: f64,
    horizontal_scale: f64,
    leading: f64,
    rise: f64,
}

impl<'a> Interpreter<'a> {
    pub fn new(pdf: &'a lopdf::Document, limits: &Limits, deadline: Instant) -> Self {
        Self { pdf, deadline, bytes_left: limits.max_unpacked_bytes, n_forms: 0, fonts: HashMap::new() }
    }

    /// The lines of a page.
    ///
    /// # Errors
    /// The time is over, or what pages unpack to exceeds the limit.
    pub fn page(&mut self, id: ObjectId) -> Result<Page, Stop> {
        self.n_forms = 0;
        let mut page = Page::default();
        let mut content = Vec::new();
        for id in self.pdf.get_page_contents(id) {
            if let Ok(stream) = self.pdf.get_object(id).and_then(Object::as_stream) {
                content.append(&mut self.unpack(stream)?);
                content.push(b'\n');
            }
        }
        let resources = self.page_resources(id);
        self.run(&content, resources, State::default(), 0, &mut page)?;
        Ok(page)
    }

    /// Resources may be given by any node of the tree above.
    fn page_resources(&self, id: ObjectId) -> Option<&'a Dictionary> {
        let mut node = self.pdf.get_dictionary(id).ok()?;
        for _ in 0..MAX_PARENTS {
            if let Some(resources) = member(self.pdf, node, b"Resources").and_then(|object| object.as_dict().ok()) {
                return Some(resources);
            }
            node = dictionary(self.pdf, node.get(b"Parent").ok()?)?;
        }
        None
    }

    fn unpack(&mut self, stream: &Stream) -> Result<Vec<u8>, Stop> {
        // A stream with a filter that is for images only has no text.
        let only_images =
            |filter: &&[u8]| matches!(*filter, b"DCTDecode" | b"JPXDecode" | b"CCITTFaxDecode" | b"JBIG2Decode");
        if stream.filters().unwrap_or_default().iter().any(only_images) {
            return Ok(Vec::new());
        }
        let content = unpacked(stream, self.bytes_left).ok_or(Stop::TooLarge)?;
        self.bytes_left -= content.len().min(self.bytes_left);
        Ok(content)
    }

    fn run(
        &mut self,
        content: &[u8],
        resources: Option<&'a Dictionary>,
        state: State,
        depth: usize,
        page: &mut Page,
    ) -> Result<(), Stop> {
        let Ok(content) = Content::decode(&without_inline_images(content)) else { return Ok(()) };
        let mut run = Run { matrix: Matrix::IDENTITY, line: Matrix::IDENTITY, state, saved: Vec::new(), page };
        for (operation, n) in content.operations.iter().zip(0usize..) {
            if n.is_multiple_of(OPERATORS_PER_CHECK) && Instant::now() > self.deadline {
                return Err(Stop::TooSlow);
            }
            let operands = operation.operands.as_slice();
            match (operation.operator.as_str(), operands) {
                ("Tf", [Object::Name(name), size]) => {
                    run.state.font = self.font(resources, name);
                    run.state.size = number(size).unwrap_or(run.state.size);
                }
                ("Do", [Object::Name(name)]) => {
                    let form = resources
                        .and_then(|resources| member(self.pdf, resources, b"XObject")?.as_dict().ok())
                        .and_then(|objects| member(self.pdf, objects, name)?.as_stream().ok());
                    if let Some(form) = form {
                        self.form(form, resources, &run.state, depth, run.page)?;
                    }
                }
                _ => run.operate(operation),
            }
        }
        Ok(())
    }

    fn form(
        &mut self,
        form: &'a Stream,
        outer: Option<&'a Dictionary>,
        state: &State,
        depth: usize,
        page: &mut Page,
    ) -> Result<(), Stop> {
        let is_form = form.dict.get(b"Subtype").and_then(Object::as_name).is_ok_and(|subtype| subtype == b"Form");
        self.n_forms += 1;
        if !is_form || depth >= MAX_FORM_DEPTH || self.n_forms > MAX_FORMS {
            return Ok(());
        }
        let mut state = state.clone();
        if let Some(matrix) = member(self.pdf, &form.dict, b"Matrix").and_then(|m| Matrix::read(m.as_array().ok()?)) {
            state.transform = matrix.then(state.transform);
        }
        let own = member(self.pdf, &form.dict, b"Resources").and_then(|object| object.as_dict().ok());
        let content = self.unpack(form)?;
        self.run(&content, own.or(outer), state, depth + 1, page)
    }

    fn font(&mut self, resources: Option<&'a Dictionary>, name: &[u8]) -> Option<Rc<Font>> {
        let fonts = member(self.pdf, resources?, b"Font")?.as_dict().ok()?;
        let object = fonts.get(name).ok()?;
        let id = object.as_reference().ok();
        if let Some(font) = id.and_then(|id| self.fonts.get(&id)) {
            return Some(Rc::clone(font));
        }
        let font = Rc::new(Font::load(self.pdf, dictionary(self.pdf, object)?));
        if let Some(id) = id {
            self.fonts.insert(id, Rc::clone(&font));
        }
        Some(font)
    }
}

/// One content stream while it runs.
struct Run<'a> {
    state: State,
    saved: Vec<State>,
    /// Where the next character goes.
    matrix: Matrix,
    /// Where the current line began.
    line: Matrix,
    page: &'a mut Page,
}

impl Run<'_> {
    fn operate(&mut self, operation: &Operation) {
        let operands = operation.operands.as_slice();
        let first = operands.first().and_then(number);
        match (operation.operator.as_str(), operands) {
            ("q", _) if self.saved.len() < MAX_SAVED => self.saved.push(self.state.clone()),
            ("Q", _) => self.state = self.saved.pop().unwrap_or_else(|| self.state.clone()),
            ("cm", operands) => {
                if let Some(matrix) = Matrix::read(operands) {
                    self.state.transform = matrix.then(self.state.transform);
                }
            }
            ("BT", _) => self.start_line(Matrix::IDENTITY),
            ("Tm", operands) => {
                if let Some(matrix) = Matrix::read(operands) {
                    self.start_line(matrix);
                }
            }
            ("Td" | "TD", [x, y]) => {
                let (Some(x), Some(y)) = (number(x), number(y)) else { return };
                if operation.operator == "TD" {
                    self.state.leading = -y;
                }
                self.move_line(x, y);
            }
            ("T*", _) => self.move_line(0.0, -self.state.leading),
            ("Tj", [Object::String(string, _)]) => self.show(string),
            ("'", [Object::String(string, _)]) => {
                self.move_line(0.0, -self.state.leading);
                self.show(string);
            }
            ("\"", [word_spacing, character_spacing, Object::String(string, _)]) => {
                self.state.word_spacing = number(word_spacing).unwrap_or(0.0);
                self.state.character_spacing = number(character_spacing).unwrap_or(0.0);
                self.move_line(0.0, -self.state.leading);
                self.show(string);
            }
            ("TJ", [Object::Array(pieces)]) => {
                for piece in pieces {
                    match piece {
                        Object::String(string, _) => self.show(string),
                        other => {
                            let back = number(other).unwrap_or(0.0) / 1_000.0 * self.state.size;
                            self.advance(-back * self.state.horizontal_scale);
                        }
                    }
                }
            }
            ("Tc", _) => self.state.character_spacing = first.unwrap_or(0.0),
            ("Tw", _) => self.state.word_spacing = first.unwrap_or(0.0),
            ("Tz", _) => self.state.horizontal_scale = first.unwrap_or(100.0) / 100.0,
            ("TL", _) => self.state.leading = first.unwrap_or(0.0),
            ("Ts", _) => self.state.rise = first.unwrap_or(0.0),
            _ => {}
        }
    }

    fn start_line(&mut self, matrix: Matrix) {
        (self.line, self.matrix) = (matrix, matrix);
    }

    fn move_line(&mut self, x: f64, y: f64) {
        self.start_line(Matrix([1.0, 0.0, 0.0, 1.0, x, y]).then(self.line));
    }

    fn advance(&mut self, x: f64) {
        self.matrix = Matrix([1.0, 0.0, 0.0, 1.0, x, 0.0]).then(self.matrix);
    }

    fn show(&mut self, string: &[u8]) {
        let Some(font) = self.state.font.clone() else { return };
        for shown in font.show(string) {
            let state = &self.state;
            let scale = Matrix([state.size * state.horizontal_scale, 0.0, 0.0, state.size, 0.0, state.rise]);
            let Matrix([right_x, right_y, up_x, up_y, x, y]) = scale.then(self.matrix).then(state.transform);
            self.page.add(&Glyph {
                x,
                y,
                direction: (right_x, right_y),
                width: shown.width * right_x.hypot(right_y),
                size: up_x.hypot(up_y),
                text: &shown.text,
            });
            let spacing = state.character_spacing + if shown.is_space { state.word_spacing } else { 0.0 };
            let step = (shown.width * state.size + spacing) * state.horizontal_scale;
            self.advance(step);
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            transform: Matrix::IDENTITY,
            font: None,
            size: 1.0,
            character_spacing: 0.0,
            word_spacing: 0.0,
            horizontal_scale: 1.0,
            leading: 0.0,
            rise: 0.0,
        }
    }
}

impl Matrix {
    const IDENTITY: Self = Self([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);

    fn read(operands: &[Object]) -> Option<Self> {
        let numbers: Vec<f64> = operands.iter().filter_map(number).collect();
        numbers.try_into().ok().map(Self)
    }

    /// First this, then `next`.
    fn then(self, next: Self) -> Self {
        let Self([a, b, c, d, e, f]) = self;
        let Self([na, nb, nc, nd, ne, nf]) = next;
        Self([
            a * na + b * nc,
            a * nb + b * nd,
            c * na + d * nc,
            c * nb + d * nd,
            e * na + f * nc + ne,
            e * nb + f * nd + nf,
        ])
    }
}

/// Cuts images out of the content: their bytes may look like anything, and the library panics on some.
fn without_inline_images(content: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some(start) = token(rest, b"BI") {
        let (before, image) = rest.split_at(start);
        let data = token(image, b"ID").filter(|at| image.get(..*at).is_some_and(|head| head.contains(&b'/')));
        let end = data.and_then(|data| Some(data + token(image.get(data..)?, b"EI")?));
        let Some(end) = end else { break };
        kept.extend_from_slice(before);
        rest = image.get(end + 2..).unwrap_or_default();
    }
    kept.extend_from_slice(rest);
    kept
}

/// Where the token stands with white space around it.
fn token(content: &[u8], token: &[u8; 2]) -> Option<usize> {
    let around = |at: Option<usize>| {
        at.and_then(|at| content.get(at)).is_none_or(|byte| byte.is_ascii_whitespace() || *byte == 0)
    };
    content.windows(2).enumerate().find_map(|(at, window)| {
        let is_apart = window == token && around(at.checked_sub(1)) && around(Some(at + 2));
        is_apart.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_images_are_cut_out_and_texts_that_look_like_them_stay() {
        for (content, kept) in [
            ("q BI /W 1 /H 1 ID \u{1}Tj( EI Q (a) Tj", "q  Q (a) Tj"),
            ("(the BI tool) Tj", "(the BI tool) Tj"),
            ("(BI and ID and EI) Tj", "(BI and ID and EI) Tj"),
        ] {
            assert_eq!(String::from_utf8(without_inline_images(content.as_bytes())).unwrap(), kept);
        }
    }

    #[test]
    fn matrices_are_applied_in_reading_order() {
        let moved = Matrix([1.0, 0.0, 0.0, 1.0, 3.0, 4.0]);
        let doubled = Matrix([2.0, 0.0, 0.0, 2.0, 0.0, 0.0]);
        assert_eq!(moved.then(doubled).0, [2.0, 0.0, 0.0, 2.0, 6.0, 8.0]);
        assert_eq!(doubled.then(moved).0, [2.0, 0.0, 0.0, 2.0, 3.0, 4.0]);
    }
}
