//! stub
mod lab;
#[test]
fn a_helper_process_does_as_its_role_says() {
    lab::role::run_if_asked();
}
