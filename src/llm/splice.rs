//! Changing single members of a JSON body and leaving every other byte alone.
//!
//! Used where the gateway must say something else than the client did: the provider's name of the model, usage in streams,
//! settings an operator enforces. White space, order, number spelling, unknown and repeated members stay as they are. One
//! pass finds the places, one copy writes the new body; if nothing changes, the old body itself is returned.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use memchr::memchr;

use super::error::ApiError;
use super::json::{Cursor, JsonError, Kind, quote};

/// One change. `path` is a member name, or several joined by dots that lead through objects, which are made where they are
/// absent or null. A member that stands several times is changed, or removed, everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit<'a> {
    /// Gives the member this value (JSON text), adding it at the end of its object if it is absent.
    Set(Cow<'a, str>, Cow<'a, str>),
    /// As `Set`, but only if the member is absent. Null counts as present.
    Default(Cow<'a, str>, Cow<'a, str>),
    /// Removes the member, if it is there.
    Remove(Cow<'a, str>),
}

impl<'a> Edit<'a> {
    /// Sets `path` to the JSON text `value`.
    pub fn set(path: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        Edit::Set(path.into(), value.into())
    }

    /// Sets `path` to the string `value`.
    pub fn set_string(path: impl Into<Cow<'a, str>>, value: &str) -> Self {
        Edit::Set(path.into(), quote(value).into())
    }

    pub fn default(path: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        Edit::Default(path.into(), value.into())
    }

    pub fn remove(path: impl Into<Cow<'a, str>>) -> Self {
        Edit::Remove(path.into())
    }

    fn path(&self) -> &str {
        match self {
            Edit::Set(path, _) | Edit::Default(path, _) | Edit::Remove(path) => path,
        }
    }
}

/// Why a body could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The member on the way to what should change is there, and is not an object. Empty: the body itself.
    #[error("`{0}` is not an object")]
    NotAnObject(String),
}

impl From<SpliceError> for ApiError {
    fn from(error: SpliceError) -> Self {
        match error {
            SpliceError::Json(error) => error.into(),
            SpliceError::NotAnObject(path) if path.is_empty() => ApiError::wrong_type("body", "a JSON object"),
            SpliceError::NotAnObject(path) => ApiError::wrong_type(&path, "an object"),
        }
    }
}

/// Applies `edits` to the JSON object `body`, with the result they have one after the other.
///
/// # Errors
/// The body is not a JSON object, or a path leads through something that is not one.
pub fn splice(body: &Bytes, edits: &[Edit<'_>]) -> Result<Bytes, SpliceError> {
    let patches = if overlap(edits) { None } else { Some(plan(body, edits)?) };
    match patches {
        Some(patches) if patches.is_empty() => Ok(body.clone()),
        Some(patches) => Ok(apply(body, patches)),
        // Edits that touch one another are rare (an operator's settings); take them one at a time.
        None => edits.iter().try_fold(body.clone(), |body, edit| splice(&body, std::slice::from_ref(edit))),
    }
}

/// A byte range of the old body and what stands there in the new one.
pub(super) type Patch = (Range<usize>, String);

/// The new body. Patches may come in any order, must not overlap, and several at one place keep their order.
pub(super) fn apply(text: &[u8], mut patches: Vec<Patch>) -> Bytes {
    patches.sort_by_key(|(range, _)| (range.start, range.end));
    let added: usize = patches.iter().map(|(_, new)| new.len()).sum();
    let mut spliced = Vec::with_capacity(text.len() + added);
    let mut copied = 0;
    for (range, new) in patches {
        spliced.extend_from_slice(&text[copied..range.start]);
        spliced.extend_from_slice(new.as_bytes());
        copied = range.end;
    }
    spliced.extend_from_slice(&text[copied..]);
    spliced.into()
}

/// The edits below one object, by member name.
#[derive(Debug, Default)]
struct Tree<'e> {
    members: BTreeMap<&'e str, Node<'e>>,
}

#[derive(Debug)]
enum Node<'e> {
    Edit(&'e Edit<'e>),
    Inside(Tree<'e>),
}

/// Whether one path is another, or leads through it.
fn overlap(edits: &[Edit<'_>]) -> bool {
    let leads_through =
        |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    edits.iter().enumerate().any(|(i, a)| {
        edits[i + 1..].iter().any(|b| leads_through(a.path(), b.path()) || leads_through(b.path(), a.path()))
    })
}

fn plan(text: &[u8], edits: &[Edit<'_>]) -> Result<Vec<Patch>, SpliceError> {
    let mut tree = Tree::default();
    for edit in edits {
        tree.add(edit.path(), edit);
    }
    let mut cursor = Cursor::new(text);
    let mut patches = Vec::new();
    if cursor.kind()? != Kind::Object {
        cursor.value()?;
        cursor.end()?;
        return Err(SpliceError::NotAnObject(String::new()));
    }
    tree.patch(&mut cursor, text, &mut patches)?;
    cursor.end()?;
    Ok(patches)
}

impl<'e> Tree<'e> {
    fn add(&mut self, path: &'e str, edit: &'e Edit<'e>) {
        match path.split_once('.') {
            None => drop(self.members.insert(path, Node::Edit(edit))),
            Some((first, rest)) => {
                let inside = self.members.entry(first).or_insert_with(|| Node::Inside(Tree::default()));
                // Paths do not overlap, so the entry can't be an edit.
                if let Node::Inside(tree) = inside {
                    tree.add(rest, edit);
                }
            }
        }
    }

    /// Adds the patches for the object that starts at the cursor.
    fn patch(&self, cursor: &mut Cursor<'_>, text: &[u8], patches: &mut Vec<Patch>) -> Result<(), SpliceError> {
        let mut failed = None;
        let mut seen: Vec<String> = Vec::new();
        let mut members = Vec::new();
        let object = cursor.object(|cursor, key| {
            let name = key.text();
            let node = self.members.get(name.as_ref());
            let kind = cursor.kind()?;
            let mut removed = false;
            let value = match node {
                Some(Node::Inside(tree)) if kind == Kind::Object => {
                    let mut ahead = cursor.clone();
                    let value = cursor.value()?;
                    if let Err(error) = tree.patch(&mut ahead, text, patches) {
                        failed.get_or_insert_with(|| error.below(&name));
                    }
                    value
                }
                Some(Node::Inside(tree)) => {
                    let value = cursor.value()?;
                    match tree.build() {
                        Some(new) if kind == Kind::Null => patches.push((value.clone(), new)),
                        None if kind == Kind::Null => {}
                        _ => drop(failed.get_or_insert_with(|| SpliceError::NotAnObject(name.to_string()))),
                    }
                    value
                }
                Some(Node::Edit(Edit::Set(_, new))) => {
                    let value = cursor.value()?;
                    if text[value.clone()] != *new.as_bytes() {
                        patches.push((value.clone(), new.to_string()));
                    }
                    value
                }
                Some(Node::Edit(Edit::Remove(_))) => {
                    removed = true;
                    cursor.value()?
                }
                Some(Node::Edit(Edit::Default(..))) | None => cursor.value()?,
            };
            if node.is_some() {
                seen.push(name.into_owned());
            }
            members.push(Member { start: key.start, end: value.end, removed });
            Ok(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        remove(text, object.start + 1, &members, patches);
        let mut separator = if members.iter().all(|member| member.removed) { "" } else { "," };
        let at = members.last().map_or(object.start + 1, |member| member.end);
        for (name, node) in self.members.iter().filter(|(name, _)| !seen.iter().any(|seen| seen == *name)) {
            if let Some(value) = node.build() {
                patches.push((at..at, format!("{separator}{}:{value}", quote(name))));
                separator = ",";
            }
        }
        Ok(())
    }

    /// The object these edits make where there is none; `None` if they add nothing.
    fn build(&self) -> Option<String> {
        let members: Vec<_> =
            self.members.iter().filter_map(|(name, node)| Some(format!("{}:{}", quote(name), node.build()?))).collect();
        (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
    }
}

impl Node<'_> {
    fn build(&self) -> Option<String> {
        match self {
            Node::Edit(Edit::Set(_, value) | Edit::Default(_, value)) => Some(value.to_string()),
            Node::Edit(Edit::Remove(_)) => None,
            Node::Inside(tree) => tree.build(),
        }
    }
}

/// One member of an object that is being changed: from its opening quote to the end of its value.
struct Member {
    start: usize,
    end: usize,
    removed: bool,
}

/// Cuts removed members out, each with the separator before it; the first that stays loses its own.
fn remove(text: &[u8], open: usize, members: &[Member], patches: &mut Vec<Patch>) {
    let mut end_before = open;
    let mut stays_before = false;
    for member in members {
        if member.removed {
            patches.push((end_before..member.end, String::new()));
        } else {
            if !stays_before && let Some(comma) = memchr(b',', &text[end_before..member.start]) {
                patches.push((end_before + comma..end_before + comma + 1, String::new()));
            }
            stays_before = true;
        }
        end_before = member.end;
    }
}

impl SpliceError {
    /// The same error, seen from the object that has the failing one as member `name`.
    fn below(self, name: &str) -> Self {
        match self {
            SpliceError::NotAnObject(path) => SpliceError::NotAnObject(format!("{name}.{path}")),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
