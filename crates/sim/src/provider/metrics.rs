//! What a provider has answered, in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::body::Body as HttpBody;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use parking_lot::Mutex;

/// Answers by their status. A refusal counts when it is made, a stream when it begins, and
/// any other answer when it is whole.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<BTreeMap<u16, u64>>);

impl Answers {
    pub(crate) fn count(&self, status: StatusCode) {
        *self.0.lock().entry(status.as_u16()).or_default() += 1;
    }

    fn text(&self) -> String {
        let mut text = "# HELP paceline_sim_answers_total Answers of the simulated provider.\n\
                        # TYPE paceline_sim_answers_total counter\n"
            .to_owned();
        for (status, count) in self.0.lock().iter() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "paceline_sim_answers_total{{status=\"{status}\"}} {count}");
        }
        text
    }

    pub(crate) fn response(&self) -> Response {
        let mut response = Response::new(HttpBody::from(self.text()));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_by_status() {
        let answers = Answers::default();
        for status in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS, StatusCode::OK] {
            answers.count(status);
        }
        let text = answers.text();
        let expected = "counter\npaceline_sim_answers_total{status=\"200\"} 2\n\
                        paceline_sim_answers_total{status=\"429\"} 1\n";
        assert!(text.ends_with(expected), "{text}");
    }
}
