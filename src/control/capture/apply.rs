//! Sets the rules and takes them back.

use std::fs;
use std::path::Path;

use super::family::{Family, families};
use super::fault::CaptureFault;
use super::matches::EMPTY_TABLE;
use super::model::{Capture, Form};
use super::program::{checked, nft, words};
use super::{lane, routing, shortcut};

/// The guard's rules, as `systemd/schengate-guard.nft` holds them: a forward hook that drops all.
pub const GUARD: &str = include_str!("../../../systemd/schengate-guard.nft");

impl Capture {
    /// Everything that [`Capture::up`] sets, for a person to read: the guard and the ruleset as
    /// `nft -f` takes them, the `ip` commands as comments.
    #[must_use]
    pub fn script(&self) -> String {
        let families = Family::ALL.into_iter().filter(|_| self.form == Form::Gateway);
        let routing: String = families
            .flat_map(|family| {
                let routed = self.routed().any(|routed| routed == family);
                routing::shown(family, routed, self.forwards())
            })
            .map(|line| format!("# {line}\n"))
            .collect();
        let queue = self.lane.as_ref().map(lane::shown).unwrap_or_default();
        format!("{}{routing}{}{}{queue}", self.guard(), self.ruleset(), self.frame())
    }

    /// The guard of the gateway form.
    fn guard(&self) -> String {
        match (self.form, self.forwards()) {
            (Form::Host { .. }, _) => String::new(),
            (Form::Gateway, false) => GUARD.to_owned(),
            (Form::Gateway, true) => shortcut::guard(GUARD),
        }
    }

    /// The frame of the short cut, where there is one, and of the lane.
    fn frame(&self) -> String {
        let shortcut = self.shortcut.map(|masquerade| shortcut::frame(self, masquerade));
        let lane = self.lane.as_ref().map(|lane| lane::frame(self, lane));
        [shortcut, lane].into_iter().flatten().collect()
    }

    /// Sets the guard (gateway form), the routes and the rules, in this order. May be repeated, and
    /// mends what is missing: at no moment less stands than before.
    ///
    /// # Errors
    /// The first step that fails, with what was said. What was set before it stays: the guard
    /// then drops what is not captured.
    pub fn up(&self) -> Result<(), CaptureFault> {
        if self.form == Form::Gateway {
            // Rules that may mark before the guard lets marks through, and the other way round.
            if self.shortcut.is_none() {
                end_shortcut()?;
            }
            match &self.lane {
                None => end_lane()?,
                Some(_) => lane::count()?,
            }
            nft(&self.guard())?;
        }
        for family in families() {
            let routed = self.routed().any(|routed| routed == family);
            if routed {
                routing::enroute(family)?
            } else {
                routing::unroute(family)?
            }
            if self.form == Form::Gateway {
                routing::set_fence(family, self.forwards())?;
            }
        }
        // One transaction: what is marked is not captured, and nothing is marked by halves.
        nft(&format!("{}{}", self.ruleset(), self.frame()))?;
        if let Some(lane) = &self.lane {
            lane::queue(lane)?;
            lane::forget_soon();
        }
        if self.forwards() { switch_forwarding("1") } else { Ok(()) }
    }

    /// Takes back the rules and the routes of either form, and leaves the guard. May be repeated.
    ///
    /// # Errors
    /// The first step that fails, with what was said.
    pub fn down() -> Result<(), CaptureFault> {
        end_shortcut()?;
        end_lane()?;
        nft(EMPTY_TABLE)?;
        families().try_for_each(routing::unroute)
    }
}

/// Sets the guard alone, both fences and the switches: nothing is forwarded. May be repeated; a
/// short cut that stands is taken out of the guard, so that what it carried is dropped.
///
/// # Errors
/// The first step that fails, with what was said; what was set before it stays.
pub fn guard() -> Result<(), CaptureFault> {
    families().try_for_each(|family| routing::set_fence(family, false))?;
    nft(GUARD)?;
    switch_forwarding("0")
}

/// Takes the guard away, both fences of it: from then on the kernel forwards as it is told to.
///
/// # Errors
/// The first step that fails, with what was said.
pub fn open_guard() -> Result<(), CaptureFault> {
    nft("table inet schengate_guard\ndelete table inet schengate_guard\n")?;
    families().try_for_each(routing::remove_fence)
}

/// Takes the short cut back, where there is one: its table, the marks that the guard lets through,
/// and the forwarding that was switched on for it.
fn end_shortcut() -> Result<(), CaptureFault> {
    let chains = checked("nft", &words("list chains"), None)?;
    if shortcut::installed(&chains).is_none() {
        return Ok(());
    }
    switch_forwarding("0")?;
    nft(&format!("{GUARD}{}", shortcut::EMPTY_TABLE))
}

/// The same for the lane: what it carried is dropped from then on.
fn end_lane() -> Result<(), CaptureFault> {
    if lane::end()? {
        switch_forwarding("0")?;
        nft(GUARD)?;
    }
    Ok(())
}

/// Switches forwarding of both families, as far as the kernel has them.
pub(super) fn switch_forwarding(to: &str) -> Result<(), CaptureFault> {
    const SWITCHES: [&str; 2] =
        ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
    for path in SWITCHES.into_iter().filter(|path| Path::new(path).exists()) {
        fs::write(path, to).map_err(|source| CaptureFault::Switch { path, source })?;
    }
    Ok(())
}
