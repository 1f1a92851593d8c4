//! What needs the laboratory (`tests/lab`): network namespaces, the built gateway in one of them, and
//! all that is counted in the world behind it. One program, so that the laboratory is compiled once;
//! each module is a test subject of its own.

use std::env;

#[path = "../flights/mod.rs"]
mod flights;
#[path = "../lab/mod.rs"]
mod lab;
#[path = "../support/lane.rs"]
mod lane_drive;
#[path = "../support/mmdb.rs"]
mod mmdb;
#[path = "../support/packets.rs"]
mod packets;
#[path = "../support/schema.rs"]
mod schema;
#[path = "../support/mod.rs"]
mod support;

// What several modules share.
mod catalogue;
mod requests;
mod site;

mod abrupt;
mod api;
mod associate;
mod audit;
mod audit_gateway;
mod audit_privacy;
mod browser;
mod capture;
mod catalogue_answers;
mod catalogue_connections;
mod catalogue_data;
mod catalogue_flight;
mod catalogue_network;
mod catalogue_proxy;
mod catalogue_requests;
mod catalogue_tls;
mod clients;
mod crowd;
mod dashboard;
mod dns;
mod exec;
mod exec_clients;
mod exec_ways;
mod lane;
mod lane_fuzz;
mod netns;
mod netns_udp;
mod oci;
mod pictures;
mod relay;
mod request_streams;
mod shortcut;
mod soak;
mod starttls;
mod udp_ways;
mod update;

/// The one entry of every helper process: this program, started again by [`lab::Space::helper`] with
/// its role in the environment. Without a role it has nothing to do.
#[test]
fn a_helper_process_does_as_its_role_says() {
    match env::var(lab::role::VARIABLE).as_deref() {
        Ok("abrupt-world") => abrupt::world(),
        Ok("abrupt-client") => abrupt::client(),
        Ok("audit-world") => audit_gateway::world(),
        Ok("audit-client") => audit_gateway::client(),
        Ok("audit-scrapers") => audit_gateway::scrapers(),
        Ok(role) if role.starts_with("audit-") => audit::play(role),
        Ok("site") => site::site(),
        Ok("visitor") => site::visitor(),
        Ok("origin") => request_streams::origin(),
        Ok("asker") => request_streams::asker(),
        Ok("uncapped") => lane::uncapped(),
        Ok("lane-server") => lane_fuzz::server(),
        Ok("filler") => shortcut::filler(),
        Ok("mirror") => update::mirror(),
        _ => return lab::role::run_if_asked(),
    }
    std::process::exit(0);
}
