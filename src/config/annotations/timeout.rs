//! `timeout`: seconds for the whole exchange of a route; zero means none.

use std::time::Duration;

use super::Annotations;

pub(super) fn read(annotations: &Annotations<'_>) -> Option<Duration> {
    let seconds: u32 =
        annotations.parse(annotations.higress("timeout"), "a number of seconds", |text| text.parse().ok())?;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}
