package reencrypt

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestClientSideSays(t *testing.T) {
	found := Counts{
		Scanned: 20, Moved: 10, Envelopes: map[string]int64{"sops": 4, "s3-client-v2": 8}, Rewrapped: map[Reason]int64{ReasonOnTarget: 6, ReasonSSES3: 3},
		ByReason: map[Reason]int64{ReasonEnvelopeFile: 2, ReasonEnvelopeKMS: 1, ReasonObjectLock: 5, ReasonOtherKey: 3},
	}
	partly := Counts{Scanned: 1, Moved: 1, Partly: 1, Envelopes: map[string]int64{"sops": 1}, ByReason: map[Reason]int64{ReasonEnvelopeFile: 1}}
	for name, tt := range map[string]struct {
		in   Envelopes
		c    Counts
		dry  bool
		want []string
	}{
		"off":             {in: EnvelopesOff, c: found, want: []string{"Client-side encryption was not looked for."}},
		"none":            {c: found, want: []string{"Client-side encryption was not looked for."}},
		"off, not begun":  {want: []string{"Client-side encryption is not looked for."}},
		"not begun":       {in: EnvelopesMetadata, want: []string{"Client-side encryption is looked for in metadata and instruction files."}},
		"nothing found":   {in: EnvelopesContent, c: Counts{Scanned: 3}, want: []string{"No client-side encryption was found in metadata, instruction files and contents."}},
		"nothing in part": {in: EnvelopesMetadata, c: Counts{Scanned: 3}, want: []string{"No client-side encryption was found in metadata and instruction files.", "Contents were not looked at."}},
		"unread": {in: EnvelopesContent, c: Counts{Scanned: 3, ByReason: map[Reason]int64{ReasonEnvelopeUnread: 1}}, want: []string{
			"No client-side encryption was found in metadata, instruction files and contents.", "Data keys were refused (envelope-unread: 1).",
		}},
		"found": {in: EnvelopesContent, c: found, want: []string{
			"Client-side encryption was found in 12 object versions (s3-client-v2: 8; sops: 4).", "Data keys were moved in 9 object versions.",
			"Data keys were refused (envelope-file: 2; envelope-kms: 1).",
		}},
		"found, dry": {in: EnvelopesContent, c: found, dry: true, want: []string{
			"Client-side encryption was found in 12 object versions (s3-client-v2: 8; sops: 4).", "Data keys would move in 9 object versions.",
			"Data keys would be refused (envelope-file: 2; envelope-kms: 1).",
		}},
		"partly": {in: EnvelopesContent, c: partly, want: []string{
			"Client-side encryption was found in 1 object version (sops: 1).", "No data key was moved.", "Data keys were refused (envelope-file: 1).",
			"In 1 object version the object was moved, and its data key was not.",
		}},
		"partly, dry": {in: EnvelopesContent, c: partly, dry: true, want: []string{
			"Client-side encryption was found in 1 object version (sops: 1).", "No data key would move.", "Data keys would be refused (envelope-file: 1).",
			"In 1 object version the object would move, and its data key would not.",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, Summary{EnvelopesIn: tt.in, Counts: tt.c}.ClientSide(tt.dry)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestPlanSaysClientSide(t *testing.T) {
	p := BucketPlan{Envelopes: EnvelopesContent, Survey: Survey{Listed: 30, Groups: []Group{
		{Action: "update", Versions: 9},
		{Action: "re-wrap", Envelope: "s3-client-v2", Sealed: true, Versions: 5},
		{Action: "rewrite", Envelope: "sops", Sealed: true, Versions: 2},
		{Action: "update", Reason: ReasonEnvelopeLarge, Envelope: "sops", Sealed: true, Versions: 3},
		{Action: "refuse", Reason: ReasonEnvelopeFormat, Envelope: "aws-encryption-sdk", Sealed: true, Versions: 1},
		{Action: "refuse", Reason: ReasonObjectLock, Versions: 4},
		{Action: "skip", Reason: ReasonOtherKey, Envelope: "tink", Versions: 6},
	}}}
	want := []string{
		"Client-side encryption was found in 17 object versions (aws-encryption-sdk: 1; s3-client-v2: 5; sops: 5; tink: 6).",
		"Data keys would move in 7 object versions.",
		"Data keys would be refused (envelope-format: 1; envelope-too-large: 3).",
		"In 3 object versions the object would move, and its data key would not.",
	}
	if d := cmp.Diff(want, p.ClientSide()); d != "" {
		t.Error(d)
	}
}

func TestEnvelopeFlags(t *testing.T) {
	for want, s := range map[string]Summary{
		"":                                     {},
		" --envelopes metadata":                {EnvelopesIn: EnvelopesMetadata},
		" --envelopes content":                 {EnvelopesIn: EnvelopesContent},
		" --envelopes content --rewrite-files": {EnvelopesIn: EnvelopesContent, RewriteFiles: true},
	} {
		if got := s.EnvelopeFlags(); string(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
