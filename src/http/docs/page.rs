//! The page: HTML that needs no script. Pure.

use std::fmt::Write as _;

use super::json::Json;
use crate::web::query;

/// Stands for the host in the commands; no text of the document can hold it.
pub(super) const HOST: &str = "\u{1}host\u{1}";

pub(super) const STYLE: &str = include_str!("page.css");

/// The whole page. A document of another shape makes a page with gaps, not a panic.
pub(super) fn render(document: &str) -> String {
    let document: Json = serde_json::from_str(document).expect("the embedded document is JSON; tests read it");
    let info = document.get("info");
    let (title, version) = (escape(info.get("title").text()), escape(info.get("version").text()));
    let mut page = Page { document: &document, html: String::new() };
    page.add(&format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} {version}: the interface for callers</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>{title} <small>{version}</small></h1>\n<p class=\"lead\">{}</p>\n{}</header>\n",
        inline(info.get("summary").text()),
        prose(info.get("description").text()),
    ));
    page.contents();
    page.add("<main>\n");
    for (path, operations) in document.get("paths").fields() {
        page.path(path, operations);
    }
    page.errors();
    page.shapes();
    page.add("</main>\n<footer><p>The same for programs: <a href=\"/openapi.json\">/openapi.json</a></p></footer>\n");
    page.add("</body>\n</html>\n");
    page.html
}

struct Page<'a> {
    document: &'a Json,
    html: String,
}

impl<'a> Page<'a> {
    fn add(&mut self, html: &str) {
        self.html.push_str(html);
    }

    fn contents(&mut self) {
        self.add("<nav aria-label=\"Contents\">\n<ul>\n");
        for (path, operations) in self.document.get("paths").fields() {
            let Some((_, operation)) = operations.fields().next() else { continue };
            let line = format!(
                "<li><a href=\"#{}\">{} <code>{}</code></a> <span>{}</span></li>\n",
                anchor(path),
                methods(operations),
                escape(path),
                inline(operation.get("summary").text()),
            );
            self.add(&line);
        }
        self.add("<li><a href=\"#errors\">Errors</a></li>\n<li><a href=\"#shapes\">Shapes</a></li>\n</ul>\n</nav>\n");
    }

    /// One path. `HEAD` says what `GET` says, so the first operation speaks for both.
    fn path(&mut self, path: &str, operations: &Json) {
        let Some((method, operation)) = operations.fields().next() else { return };
        let head = format!(
            "<section id=\"{0}\">\n<h2>{1} <a href=\"#{0}\"><code>{2}</code></a></h2>\n<p class=\"lead\">{3}</p>\n{4}",
            anchor(path),
            methods(operations),
            escape(path),
            inline(operation.get("summary").text()),
            prose(operation.get("description").text()),
        );
        self.add(&head);
        self.command(method, path, operation);
        self.parameters(operation);
        self.answers(operation);
        self.add("</section>\n");
    }

    fn parameters(&mut self, operation: &Json) {
        let document = self.document;
        let parameters = operation.get("parameters").items();
        let schema = operation.get("requestBody").get("content").get("application/json").get("schema");
        if parameters.is_empty() && schema.is_null() {
            return;
        }
        self.add("<h3>Request</h3>\n<dl>\n");
        let fields = schema.resolved(document);
        for (name, field) in fields.get("properties").fields() {
            let note = format!("body, {}", necessity(fields, name));
            self.term(name, &note, field.resolved(document).get("description").text());
        }
        for parameter in parameters.iter().map(|parameter| parameter.resolved(document)) {
            let is_required = *parameter.get("required") == Json::Bool(true);
            let note = format!("{}, {}", parameter.get("in").text(), if is_required { "required" } else { "optional" });
            self.term(parameter.get("name").text(), &note, parameter.get("description").text());
        }
        self.add("</dl>\n");
    }

    /// What to type, for the host that the page was asked at.
    fn command(&mut self, method: &str, path: &str, operation: &Json) {
        let document = self.document;
        let parameters = operation.get("parameters").items().iter().map(|parameter| parameter.resolved(document));
        let query = parameters
            .filter(|it| it.get("in").text() == "query" && *it.get("required") == Json::Bool(true))
            .map(|it| (it.get("name").text(), query::encoded(it.get("example").text())))
            .map(|(name, value)| format!("?{name}={value}"))
            .collect::<String>();
        let body = operation.get("requestBody").get("content").get("application/json").get("example");
        let command = if method == "post" {
            format!("curl -i http://{HOST}{path} -d '{}'", compact(body))
        } else {
            format!("curl -i 'http://{HOST}{path}{query}'")
        };
        self.add(&format!("<pre class=\"command\"><code>{}</code></pre>\n", escape(&command)));
    }

    fn answers(&mut self, operation: &Json) {
        let document = self.document;
        self.add("<h3>Answers</h3>\n");
        let answers = operation.get("responses").fields().map(|(status, answer)| (status, answer.resolved(document)));
        let (good, bad): (Vec<_>, Vec<_>) = answers.partition(|(status, _)| status.starts_with(['2', '3']));
        for (status, answer) in good {
            let line = format!("<p><b>{status}</b> {}</p>\n", inline(answer.get("description").text()));
            self.add(&line);
            for (media_type, content) in answer.get("content").fields() {
                self.examples(media_type, content);
            }
            self.headers(answer);
        }
        // They are much alike everywhere, and hide what is not.
        let statuses: Vec<&str> = bad.iter().map(|(status, _)| *status).collect();
        self.add(&format!("<details><summary>Errors: {}</summary>\n", statuses.join(" ")));
        self.add("<table>\n<thead><tr><th>Status</th><th>When</th></tr></thead>\n<tbody>\n");
        for (status, answer) in bad {
            let examples = answer.get("content").fields().flat_map(|(_, content)| content.get("examples").fields());
            let mut kinds: Vec<&str> = examples.map(|(slug, _)| slug).collect();
            kinds.dedup();
            let kinds: Vec<String> =
                kinds.iter().map(|slug| format!("<a href=\"#{0}\"><code>{0}</code></a>", escape(slug))).collect();
            let line = format!(
                "<tr><td>{status}</td><td>{} {}</td></tr>\n",
                inline(answer.get("description").text()),
                kinds.join(", "),
            );
            self.add(&line);
        }
        self.add("</tbody>\n</table>\n</details>\n");
    }

    fn examples(&mut self, media_type: &str, content: &Json) {
        let document = self.document;
        let one = [("", content.get("example"))];
        let many = content.get("examples").fields().map(|(_, it)| it.resolved(document));
        let many = many.map(|it| (it.get("summary").text(), it.get("value")));
        for (summary, value) in one.into_iter().filter(|(_, it)| !it.is_null()).chain(many) {
            let caption = format!("<code>{}</code> {}", escape(media_type), inline(summary));
            self.add(&format!(
                "<p class=\"caption\">{caption}</p>\n<pre><code>{}</code></pre>\n",
                escape(&shown(value))
            ));
        }
    }

    fn headers(&mut self, answer: &Json) {
        let document = self.document;
        self.add("<details><summary>Headers</summary>\n<dl>\n");
        for (name, header) in answer.get("headers").fields() {
            let header = header.resolved(document);
            let constant = header.get("schema").get("const");
            let example = if constant.is_null() { header.get("example") } else { constant };
            let note = if example.is_null() { String::new() } else { shown(example) };
            self.term(name, &note, header.get("description").text());
        }
        self.add("</dl>\n</details>\n");
    }

    /// The problems, each with when it comes and what to do.
    fn errors(&mut self) {
        let examples = self.document.get("components").get("examples");
        self.add("<section id=\"errors\">\n<h2>Errors</h2>\n");
        self.add(
            "<p>Under <code>/v1/</code> a problem document, whose <code>type</code> is \
             <code>urn:kielink:problem:</code> and a word of this table; under <code>/api/</code> kie.ai's envelope \
             with the same status.</p>\n",
        );
        for name in ["source-refused", "kie-source-refused"] {
            let example = shown(examples.get(name).get("value"));
            self.add(&format!("<pre><code>{}</code></pre>\n", escape(&example)));
        }
        self.add("<table class=\"errors\">\n<thead><tr><th>Type</th><th>Status</th><th>When, and what to do</th></tr></thead>\n");
        self.add("<tbody>\n");
        for (slug, example) in examples.fields() {
            let Json::Integer(status) = example.get("value").get("status") else { continue };
            let line = format!(
                "<tr id=\"{0}\"><td><code>{0}</code></td><td>{status}</td><td>{1}</td></tr>\n",
                escape(slug),
                inline(example.get("summary").text()),
            );
            self.add(&line);
        }
        self.add("</tbody>\n</table>\n</section>\n");
    }

    fn shapes(&mut self) {
        self.add("<section id=\"shapes\">\n<h2>Shapes</h2>\n");
        for (name, schema) in self.document.get("components").get("schemas").fields() {
            let head =
                format!("<h3 id=\"shape-{0}\">{0}</h3>\n{1}", escape(name), prose(schema.get("description").text()));
            self.add(&head);
            let either: Vec<String> = schema.get("oneOf").items().iter().map(kind).collect();
            if !either.is_empty() {
                self.add(&format!("<p>{}</p>\n", either.join(" or ")));
            }
            if schema.get("properties").is_null() {
                continue;
            }
            self.add("<dl>\n");
            for (field, its) in schema.get("properties").fields() {
                let note = format!("{}, {}", kind(its), necessity(schema, field));
                let described = if its.get("description").is_null() { its.resolved(self.document) } else { its };
                self.described(field, &note, described.get("description").text());
            }
            self.add("</dl>\n");
        }
        self.add("</section>\n");
    }

    fn term(&mut self, name: &str, note: &str, description: &str) {
        self.described(name, &escape(note), description);
    }

    /// `note` is HTML.
    fn described(&mut self, name: &str, note: &str, description: &str) {
        let term = format!("<dt><code>{}</code> <small>{note}</small></dt>", escape(name));
        self.add(&format!("{term}<dd>{}</dd>\n", inline(description)));
    }
}

/// As a reader says it; HTML.
fn kind(schema: &Json) -> String {
    if let Some(name) = schema.get("$ref").text().rsplit('/').next().filter(|name| !name.is_empty()) {
        return format!("<a href=\"#shape-{0}\">{0}</a>", escape(name));
    }
    let constant = schema.get("const");
    if !constant.is_null() {
        return format!("<code>{}</code>", escape(&compact(constant)));
    }
    match schema.get("type").text() {
        "array" => format!("list of {}", kind(schema.get("items"))),
        name => escape(name),
    }
}

fn necessity(schema: &Json, field: &str) -> &'static str {
    let is_required = schema.get("required").items().iter().any(|name| name.text() == field);
    if is_required { "required" } else { "optional" }
}

fn methods(operations: &Json) -> String {
    let badges =
        operations.fields().map(|(method, _)| format!("<b class=\"method\">{}</b>", escape(&method.to_uppercase())));
    badges.collect::<Vec<_>>().join(" ")
}

fn anchor(path: &str) -> String {
    let words = path.split(|it: char| !it.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// An example as it comes over the wire, but for the line breaks.
fn shown(value: &Json) -> String {
    match value {
        Json::Text(text) => text.clone(),
        _ => serde_json::to_string_pretty(value).expect("it was read as JSON"),
    }
}

fn compact(value: &Json) -> String {
    serde_json::to_string(value).expect("it was read as JSON")
}

/// Paragraphs, with an empty line between them.
fn prose(text: &str) -> String {
    let mut html = String::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        writeln!(html, "<p>{}</p>", inline(paragraph)).expect("a String takes everything");
    }
    html
}

/// A text in which backticks mark code: all of CommonMark that the document uses.
fn inline(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(n, part)| if n % 2 == 1 { format!("<code>{}</code>", escape(part)) } else { escape(part) });
    parts.collect()
}

pub(super) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{super::super::openapi::DOCUMENT, *};

    fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
        let start = format!(" {name}=\"");
        page.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
    }

    #[test]
    fn texts_cannot_become_markup() {
        let hostile = r##"{"info":{"title":"<script>","version":"\"'&","summary":"a`<b>`"},"paths":{"/x\"><img>":{
            "get":{"summary":"<i>","description":"`a` & <p>\n\n</main>","parameters":[{"name":"<u>","in":"\"",
            "description":"<s>"}],"responses":{"200":{"description":"<em>","content":{"<a>":{"example":"</pre>"}}}}}}}}"##;
        let page = render(hostile);
        for markup in ["<script", "<b>`", "<img", "<i>", "<u>", "<s>", "<em>", "</pre></", "\"'&"] {
            assert!(!page.contains(markup), "{markup}: {page}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("a<code>&lt;b&gt;</code>"), "{page}");
        assert!(page.contains("<p>&lt;/main&gt;</p>"), "{page}");
    }

    #[test]
    fn it_shows_every_operation_parameter_problem_and_shape() {
        let page = render(DOCUMENT);
        let document: Json = serde_json::from_str(DOCUMENT).unwrap();
        let components = document.get("components");
        for (path, _) in document.get("paths").fields() {
            assert!(page.contains(&format!("<section id=\"{}\">", anchor(path))), "{path}");
            assert!(page.contains(&format!("http://{HOST}{path}")), "{path} has no command");
        }
        for (_, parameter) in components.get("parameters").fields() {
            let name = parameter.get("name").text();
            assert!(page.contains(&format!("<dt><code>{name}</code>")), "{name}");
        }
        let problems = components.get("examples").fields().filter(|(name, _)| !name.starts_with("kie-"));
        for (slug, _) in problems {
            assert!(page.contains(&format!("<tr id=\"{slug}\">")), "{slug}");
        }
        for (name, _) in components.get("schemas").fields() {
            assert!(page.contains(&format!("<h3 id=\"shape-{name}\">")), "{name}");
        }
        for gap in ["<dd></dd>", "<li></li>", "<p></p>", "<code></code>", "<td></td>", ", ,", "<code>null</code>"] {
            assert!(!page.contains(gap), "{gap}");
        }
    }

    #[test]
    fn its_links_lead_somewhere_and_nothing_is_fetched() {
        let page = render(DOCUMENT);
        let ids = attributes(&page, "id");
        let distinct: HashSet<&str> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len(), "an id stands there twice");
        for link in attributes(&page, "href") {
            let inside = link.strip_prefix('#').is_some_and(|id| distinct.contains(id));
            assert!(inside || link == "/openapi.json", "{link}");
        }
        for fetched in [" src=", "<link", "<script", "url(", "@import", "<iframe", " style=", " onclick"] {
            assert!(!page.contains(fetched), "{fetched}");
        }
    }

    #[test]
    fn commands_survive_a_shell() {
        let page = render(DOCUMENT);
        let commands = page.split("<pre class=\"command\"><code>").skip(1);
        for command in commands.map(|rest| rest.split("</code>").next().unwrap()) {
            assert!(command.starts_with("curl -i "), "{command}");
            // All that could mean something to a shell stands between one pair of quotes.
            let parts: Vec<&str> = command.split("&#39;").collect();
            assert!(parts.len() == 3 && parts[2].is_empty(), "{command}");
            assert!(!parts[0].contains(['$', '`', '*', '?', ';']), "{command}");
        }
    }
}
