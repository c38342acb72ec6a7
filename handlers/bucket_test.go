package handlers

import (
	"testing"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
)

func TestDecideDefault(t *testing.T) {
	for _, tt := range []struct {
		name     string
		in       defaultInput
		want     defaultReason
		severity finding.Severity
	}{
		{"nothing known", defaultInput{key: "a"}, defaultNew, ""},
		{"as before", defaultInput{key: "a", former: "a", known: true}, defaultKept, ""},
		{"another", defaultInput{key: "b", former: "a", known: true}, defaultLeft, finding.Medium},
		{"none any more", defaultInput{former: "a", known: true}, defaultNone, finding.High},
		{"one at last", defaultInput{key: "a", known: true}, defaultKept, ""},
		{"a stranger's", defaultInput{key: "x", former: "x", known: true, foreign: true, required: []string{"x"}}, defaultForeign, finding.Critical},
		{"the tag's", defaultInput{key: "t", former: "a", known: true, required: []string{"s", "t"}}, defaultKept, ""},
		{"not the tag's", defaultInput{key: "a", former: "a", known: true, required: []string{"t"}}, defaultAstray, finding.High},
		{"one that the tag's alias had", defaultInput{key: "a", former: "b", known: true, required: []string{"t"}, earlier: []string{"a"}}, defaultKept, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, severity := decideDefault(tt.in); got != tt.want || severity != tt.severity {
				t.Errorf("%q %q, want %q %q", got, severity, tt.want, tt.severity)
			}
		})
	}
}

func TestDeniesUploads(t *testing.T) {
	const condition = `"Condition":{"StringNotEquals":{"s3:x-amz-server-side-encryption":"aws:kms"}}`
	for name, tt := range map[string]struct {
		document string
		want     bool
	}{
		"denied":                  {`{"Statement":[{"Effect":"Deny","Action":"s3:PutObject",` + condition + `}]}`, true},
		"one statement":           {`{"Statement":{"Effect":"Deny","Action":["s3:GetObject","s3:PutObject"],` + condition + `}}`, true},
		"any action":              {`{"Statement":[{"Effect":"Deny","Action":"s3:*",` + condition + `}]}`, true},
		"by the key":              {`{"Statement":[{"Effect":"Deny","Action":"s3:PutObject","Condition":{"Null":{"S3:X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id":"true"}}}]}`, true},
		"allowed":                 {`{"Statement":[{"Effect":"Allow","Action":"s3:PutObject",` + condition + `}]}`, false},
		"reads":                   {`{"Statement":[{"Effect":"Deny","Action":"s3:GetObject",` + condition + `}]}`, false},
		"on another condition":    {`{"Statement":[{"Effect":"Deny","Action":"s3:PutObject","Condition":{"Bool":{"aws:SecureTransport":"false"}}}]}`, false},
		"nothing":                 {``, false},
		"something else":          {`[]`, false},
		"statements of odd types": {`{"Statement":[1,"x"]}`, false},
	} {
		if got := deniesUploads(tt.document); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestDecideNewData(t *testing.T) {
	for _, tt := range []struct {
		in       newDataInput
		want     newDataReason
		severity finding.Severity
	}{
		{newDataInput{encrypted: true}, newDataFine, ""},
		{newDataInput{}, newDataPlain, finding.Medium},
		{newDataInput{ofCluster: true}, newDataOfCluster, ""},
		{newDataInput{encrypted: true, foreign: true, ofCluster: true}, newDataForeign, finding.High},
		{newDataInput{switchedOff: true}, newDataSwitch, finding.High},
	} {
		if got, severity := decideNewData(tt.in); got != tt.want || severity != tt.severity {
			t.Errorf("%+v: %q %q, want %q %q", tt.in, got, severity, tt.want, tt.severity)
		}
	}
}

func TestDecideAliasGone(t *testing.T) {
	for _, tt := range []struct {
		in       aliasGoneInput
		want     aliasGoneReason
		severity finding.Severity
	}{
		{aliasGoneInput{all: true}, aliasUnused, ""},
		{aliasGoneInput{}, aliasUnclear, ""},
		{aliasGoneInput{listed: true}, aliasListed, finding.Medium},
		{aliasGoneInput{listed: true, buckets: []string{"b"}}, aliasNamed, finding.High},
	} {
		if got, severity := decideAliasGone(tt.in); got != tt.want || severity != tt.severity {
			t.Errorf("%+v: %q %q, want %q %q", tt.in, got, severity, tt.want, tt.severity)
		}
	}
}

func TestDecideMaterial(t *testing.T) {
	soon, late := after(materialSoon-time.Hour), after(materialSoon+time.Hour)
	for _, tt := range []struct {
		expires  *time.Time
		said     bool
		want     materialReason
		severity finding.Severity
	}{
		{nil, false, materialStays, ""},
		{nil, true, materialDoubt, finding.Medium},
		{&soon, true, materialSoonest, finding.High},
		{&late, true, materialExpires, finding.Medium},
		{&late, false, materialExpires, finding.Medium},
	} {
		if got, severity := decideMaterial(tt.expires, tt.said, noon); got != tt.want || severity != tt.severity {
			t.Errorf("%v %v: %q %q, want %q %q", tt.expires, tt.said, got, severity, tt.want, tt.severity)
		}
	}
}

func TestDecideRotated(t *testing.T) {
	ago := func(days ...int) (all []ledger.OnDemandRotation) {
		for _, d := range days {
			all = append(all, ledger.OnDemandRotation{At: after(-time.Duration(d) * 24 * time.Hour)})
		}
		return all
	}
	for _, tt := range []struct {
		seen []ledger.OnDemandRotation
		want rotatedReason
	}{
		{nil, rotatedRarely},
		{ago(1, 0), rotatedRarely},
		{ago(2, 1, 0), rotatedOften},
		{ago(90, 60, 0), rotatedRarely},
		{ago(-1, -2, 0), rotatedRarely}, // an old event that comes late
	} {
		if got := decideRotated(tt.seen, noon); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.seen, got, tt.want)
		}
	}
}

func TestDecidePrimary(t *testing.T) {
	if got, severity := decidePrimary("b", "a"); got != primaryLeft || severity != finding.Medium {
		t.Errorf("%q %q", got, severity)
	}
	if got, severity := decidePrimary("a", "a"); got != primaryArrived || severity != finding.Info {
		t.Errorf("%q %q", got, severity)
	}
}
