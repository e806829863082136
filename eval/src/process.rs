//! CPU time and memory of processes, from `/proc`.

use anyhow::{Context, Result};

/// Linux reports process times in hundredths of a second on every architecture it is built for today.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system CPU seconds a process has used, all threads together.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = read(pid, "stat")?;
    // The command in parentheses may hold spaces; utime and stime are fields 14 and 15, 11 and 12 behind it.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).with_context(|| format!("/proc/{pid}/stat: unexpected {stat:?}"))?;
    Ok((user + system) / TICKS_PER_SECOND)
}

/// Resident memory in MiB.
pub fn rss_mib(pid: u32) -> Result<f64> {
    let status = read(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kib.with_context(|| format!("/proc/{pid}/status: field VmRSS is missing; has process {pid} ended?"))? / 1024.0)
}

/// CPU seconds in use on the whole machine: everything but idle and waiting for devices.
pub fn machine_busy_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat: cannot be read")?;
    let times: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|time| time.parse().ok())
        .collect();
    // Guest time (the last two) is counted in user time already.
    let used = times.iter().take(8).enumerate().filter(|(i, _)| ![3, 4].contains(i)).map(|(_, time)| time);
    Ok(used.sum::<f64>() / TICKS_PER_SECOND)
}

fn read(pid: u32, file: &str) -> Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}"))
        .with_context(|| format!("/proc/{pid}/{file}: cannot be read; is process {pid} still running?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_uses_cpu() {
        let pid = std::process::id();
        assert!(rss_mib(pid).unwrap() > 1.0);
        let (own, machine) = (cpu_seconds(pid).unwrap(), machine_busy_seconds().unwrap());
        // The kernel accounts for the process by its clock and for the machine by ticks, which fall behind where a
        // host takes processors away: a second of work shows in both, and mostly a few ticks do.
        let (mut used, mut busy, mut x) = (0.0, 0.0, 1u64);
        while used < 1.0 && (used == 0.0 || busy == 0.0) {
            for i in 0..100_000 {
                x = std::hint::black_box(x.wrapping_mul(31).wrapping_add(i));
            }
            (used, busy) = (cpu_seconds(pid).unwrap() - own, machine_busy_seconds().unwrap() - machine);
        }
        assert!(used > 0.0 && busy > 0.0, "process {used} s, machine {busy} s");
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let error = format!("{:#}", cpu_seconds(u32::MAX).unwrap_err());
        assert!(error.contains("4294967295") && error.contains("still running"));
    }
}
