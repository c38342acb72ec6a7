package cli

import (
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
)

// The part of SARIF 2.1.0 (OASIS) that is written: one run, a rule for every kind
// of finding, and a result for every finding, at its statement.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		ColumnKind  string            `json:"columnKind"`
		Results     []sarifResult     `json:"results"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		Version        string      `json:"version"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string    `json:"id"`
		ShortDescription sarifText `json:"shortDescription"`
		FullDescription  sarifText `json:"fullDescription"`
		Help             sarifText `json:"help"`
		HelpURI          string    `json:"helpUri"`
		Configuration    struct {
			Level string `json:"level"`
		} `json:"defaultConfiguration"`
		Properties struct {
			Tags []string `json:"tags"`
			// SecuritySeverity is what GitHub sorts by: a number from 0 to 10, as text.
			SecuritySeverity string `json:"security-severity"`
		} `json:"properties"`
	}
	sarifInvocation struct {
		ExecutionSuccessful bool                `json:"executionSuccessful"`
		Notifications       []sarifNotification `json:"toolExecutionNotifications,omitempty"`
	}
	sarifNotification struct {
		Level   string    `json:"level"`
		Message sarifText `json:"message"`
	}
	sarifResult struct {
		RuleID     string          `json:"ruleId"`
		RuleIndex  int             `json:"ruleIndex"`
		Level      string          `json:"level"`
		Message    sarifText       `json:"message"`
		Locations  []sarifLocation `json:"locations"`
		Properties sarifProperties `json:"properties"`
	}
	sarifProperties struct {
		Severity  finding.Severity `json:"severity"`
		Principal string           `json:"principal,omitempty"`
	}
	sarifLocation struct {
		// Physical is set for files only: a live policy has no lines.
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations"`
	}
	sarifPhysical struct {
		Artifact struct {
			URI string `json:"uri"`
		} `json:"artifactLocation"`
		Region sarifRegion `json:"region"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
		EndLine     int `json:"endLine"`
		EndColumn   int `json:"endColumn"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
)

const (
	projectURI  = "https://github.com/cmkeeper/cmkeeper"
	policyDocs  = projectURI + "/blob/main/docs/policy.md"
	sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)

// printSARIF writes what was found in policies as a SARIF log.
func printSARIF(w io.Writer, all []judgedPolicy) error {
	rules := finding.Rules(finding.OfPolicy)
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "cmkeeper", Version: strings.TrimPrefix(versionString(), "cmkeeper "), InformationURI: projectURI}
	for _, r := range rules {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRuleOf(r))
	}
	invocation := sarifInvocation{ExecutionSuccessful: true}
	for _, j := range all {
		if j.err != nil {
			invocation.ExecutionSuccessful = false
			invocation.Notifications = append(invocation.Notifications, sarifNotification{"error", plainText(j.err.Error())})
		}
		for _, f := range j.findings {
			run.Results = append(run.Results, sarifResult{
				RuleID: f.ID.String(), RuleIndex: slices.IndexFunc(rules, func(r finding.Rule) bool { return r.ID == f.ID }),
				Level: sarifLevel(f.Severity), Message: plainText(f.Message), Locations: []sarifLocation{sarifPlace(j.policySource, f)},
				Properties: sarifProperties{f.Severity, f.Principal},
			})
		}
	}
	run.Invocations = []sarifInvocation{invocation}
	encoder := newEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(sarifLog{Schema: sarifSchema, Version: "2.1.0", Runs: []sarifRun{run}})
}

func sarifRuleOf(r finding.Rule) sarifRule {
	rule := sarifRule{
		ID: r.ID.String(), ShortDescription: sarifText{r.Title}, FullDescription: sarifText{r.Why}, Help: sarifText{r.Why + "\n\nTo do: " + r.Fix},
		HelpURI: policyDocs + "#" + r.ID.String(),
	}
	rule.Configuration.Level = sarifLevel(r.Worst)
	rule.Properties.Tags = []string{"security", "kms"}
	rule.Properties.SecuritySeverity = map[finding.Severity]string{
		finding.Low: "3.0", finding.Medium: "5.5", finding.High: "8.0", finding.Critical: "9.5",
	}[r.Worst]
	return rule
}

func sarifLevel(s finding.Severity) string {
	switch s {
	case finding.Critical, finding.High:
		return "error"
	case finding.Medium:
		return "warning"
	default:
		return "note"
	}
}

// sarifPlace is the statement of a finding, in the file where there is one.
func sarifPlace(s policySource, f finding.Finding) sarifLocation {
	name := s.name
	if s.keyARN != "" && !s.file {
		name = s.keyARN
	}
	if f.Statement != "" {
		name += "#" + f.Statement
	}
	l := sarifLocation{Logical: []sarifLogical{{alert.Escape(name)}}}
	if s.file {
		at := s.place(f.Statement)
		l.Physical = &sarifPhysical{Region: sarifRegion{at.startLine, at.startColumn, at.endLine, at.endColumn}}
		l.Physical.Artifact.URI = fileURI(s.name)
	}
	return l
}

// fileURI keeps a relative path relative: to the root of the repository, where
// the command was run.
func fileURI(name string) string {
	u := url.URL{Path: filepath.ToSlash(filepath.Clean(name))}
	if filepath.IsAbs(name) {
		u.Scheme = "file"
	}
	return u.String()
}

// plainText is a text with nothing in it that a viewer would act on: SARIF's own
// links are in square brackets.
func plainText(text string) sarifText {
	return sarifText{strings.NewReplacer("[", `\[`, "]", `\]`).Replace(alert.Escape(text))}
}
