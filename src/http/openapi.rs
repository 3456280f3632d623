//! `/openapi.json`: the data interface described for programs.
//!
//! Kept by hand, for its readers: what code can say of itself is less than what they need. The tests hold it against
//! the code, the integration tests against every answer that they get.

use axum::{
    http::{HeaderValue, header},
    response::IntoResponse,
};

pub(crate) const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`
pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::web::{
        problem::{Kind, Problem},
        route::Route,
    };

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn it_is_of_this_version() {
        assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    /// The routes' methods are asked of a running kielink, by the integration tests.
    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let document = document();
        let described: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(described, Route::ALL.map(Route::path).into());
    }

    #[test]
    fn every_problem_is_described_as_it_is_rendered() {
        let document = document();
        let examples = &document["components"]["examples"];
        let mut types = Vec::new();
        for &kind in Kind::ALL {
            let (slug, status) = (kind.as_str(), kind.status());
            let example = &examples[slug]["value"];
            let detail = example["detail"].as_str().unwrap_or_else(|| panic!("{slug} has no example")).to_owned();
            let problem = Problem::refused(kind, detail);
            let mut rendered = serde_json::to_value(problem.document(example["request_id"].as_str().unwrap())).unwrap();
            // kie.ai's own answer, which this problem is not made of.
            let code = example.get("upstream_code");
            if let Some(code) = code {
                rendered["upstream_code"] = code.clone();
            }
            assert_eq!(*example, rendered, "{slug}");

            let envelope = &examples[format!("kie-{slug}")];
            assert_eq!(envelope["summary"], examples[slug]["summary"], "{slug}");
            match code {
                Some(code) => assert_eq!(envelope["value"]["code"], *code, "{slug}"),
                None => {
                    let rendered: Value = serde_json::from_str(&problem.envelope()).unwrap();
                    assert_eq!(envelope["value"], rendered, "{slug}");
                }
            }
            types.push((rendered["type"].clone(), status));
        }
        let names: Vec<&Value> = types.iter().map(|(name, _)| name).collect();
        assert_eq!(json!(names), document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]);
        let statuses: BTreeSet<u16> = types.iter().map(|(_, status)| *status).collect();
        assert_eq!(json!(statuses), document["components"]["schemas"]["Problem"]["properties"]["status"]["enum"]);
        assert_eq!(examples.as_object().unwrap().len(), 2 * names.len(), "an example is of no problem");
    }

    #[test]
    fn every_response_has_problems_of_its_status_and_every_problem_a_response() {
        let document = document();
        let mut seen = BTreeSet::new();
        // What is said at a path that is not described; no operation can say so.
        seen.extend(problems(&document, &document["components"]["responses"]["NotFound"]));
        assert_eq!(seen, BTreeSet::from(["not-found", "kie-not-found"]));
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let what = format!("{method} {path}: {status}");
                    let response = resolve(&document, response);
                    let problems = problems(&document, response);
                    for problem in &problems {
                        let slug = problem.strip_prefix("kie-").unwrap_or(problem);
                        let kind = *Kind::ALL.iter().find(|kind| kind.as_str() == slug).unwrap();
                        let is_compat = slug != *problem;
                        let expected = if is_compat { kind.compat_status() } else { kind.status() };
                        assert_eq!(expected.to_string(), *status, "{what}: {problem}");
                    }
                    let is_error = status.starts_with(['4', '5']);
                    assert_eq!(problems.is_empty(), !is_error, "{what}");
                    seen.extend(problems);
                }
            }
        }
        for &kind in Kind::ALL {
            assert!(seen.contains(kind.as_str()), "{}", kind.as_str());
        }
    }

    fn problems<'a>(document: &Value, response: &'a Value) -> BTreeSet<&'a str> {
        let contents = response["content"].as_object();
        let named = contents.into_iter().flatten().filter_map(|(_, content)| content["examples"].as_object());
        let references = named.flatten().filter_map(|(_, example)| example["$ref"].as_str());
        references
            .map(|reference| {
                assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference} leads nowhere");
                reference.strip_prefix("#/components/examples/").unwrap()
            })
            .collect()
    }

    fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
            None => value,
        }
    }

    #[test]
    fn it_needs_nothing_from_elsewhere() {
        fn check(value: &Value) {
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields {
                        if ["$ref", "externalValue", "externalDocs"].contains(&name.as_str()) {
                            assert!(value.as_str().is_some_and(|reference| reference.starts_with("#/")), "{value}");
                        }
                        check(value);
                    }
                }
                Value::Array(items) => items.iter().for_each(check),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        check(&document());
        assert_eq!(document()["servers"], json!([{ "url": "/" }]));
    }
}
