package posture

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/keypolicy"
)

func TestJudgeGrant(t *testing.T) {
	const (
		own     = "arn:aws:iam::444455556666:role/reader"
		trusted = "arn:aws:iam::111122223333:role/partner"
		foreign = "arn:aws:iam::999988887777:role/visitor"
	)
	found := map[finding.ID]bool{}
	for _, tt := range []struct {
		name      string
		grant     inventory.Grant
		byService bool
		findings  []string // "severity id", worst first
	}{
		{"own, constrained", inventory.Grant{Grantee: own, Operations: []string{"Decrypt"}, Constrained: true}, false, nil},
		{"own, for everything", inventory.Grant{Grantee: own, Operations: []string{"Decrypt"}}, false, []string{"low " + finding.GrantWithoutConstraint.String()}},
		{"own, by a service", inventory.Grant{Grantee: own, Operations: []string{"Decrypt", "CreateGrant"}}, true, nil},
		{"own, to be passed on", inventory.Grant{Grantee: own, Operations: []string{"CreateGrant"}}, false, []string{"medium " + finding.GrantCanBePassedOn.String(), "low " + finding.GrantWithoutConstraint.String()}},
		{"trusted", inventory.Grant{Grantee: trusted, Operations: []string{"Decrypt"}, Constrained: true}, false, nil},
		{"foreign, for everything", inventory.Grant{Grantee: foreign, Operations: []string{"Decrypt"}}, false, []string{"high " + finding.GrantToForeignAccount.String()}},
		{"foreign, by a service", inventory.Grant{Grantee: foreign, Operations: []string{"Decrypt"}}, true, []string{"high " + finding.GrantToForeignAccount.String()}},
		{"foreign, constrained", inventory.Grant{Grantee: foreign, Operations: []string{"Decrypt"}, Constrained: true}, false, []string{"high " + finding.GrantToForeignAccount.String()}},
		{"foreign, to write", inventory.Grant{Grantee: foreign, Operations: []string{"Encrypt"}}, false, []string{"high " + finding.GrantToForeignAccount.String()}},
		{"foreign, to look at the key", inventory.Grant{Grantee: foreign, Operations: []string{"DescribeKey"}}, false, []string{"medium " + finding.GrantToForeignAccount.String()}},
		{"foreign, to be passed on", inventory.Grant{Grantee: foreign, Operations: []string{"CreateGrant"}, Constrained: true}, false, []string{"critical " + finding.GrantToForeignAccount.String(), "critical " + finding.GrantCanBePassedOn.String()}},
		{"a unique id", inventory.Grant{Grantee: "AIDA4EXAMPLE", Constrained: true}, false, []string{"medium " + finding.GrantToUnknown.String()}},
		{"a service principal", inventory.Grant{GranteeService: "backup.amazonaws.com", Operations: []string{"Decrypt"}}, false, nil},
		{"a service as principal", inventory.Grant{Grantee: "dynamodb.eu-central-1.amazonaws.com", Operations: []string{"CreateGrant"}}, false, nil},
		{"a foreign retiree", inventory.Grant{Grantee: own, Constrained: true, Retiring: foreign}, true, []string{"medium " + finding.GrantRetiredByForeign.String()}},
		{"an ARN that is none", inventory.Grant{Grantee: "arn:aws:iam::12:role/x", Constrained: true}, false, []string{"medium " + finding.GrantToUnknown.String()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Rules{Account: "444455556666", TrustedAccounts: []string{"111122223333"}}
			findings := r.JudgeGrant(tt.grant, tt.byService)
			var ids []string
			for _, f := range findings {
				found[f.ID] = true
				ids = append(ids, string(f.Severity)+" "+f.ID.String())
			}
			if diff := cmp.Diff(tt.findings, ids); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
	for _, r := range finding.Rules(finding.OfGrant) {
		if !found[r.ID] {
			t.Errorf("no grant has the finding %s", r.ID)
		}
	}
}

// TestSameReachSameSeverity: what a foreign principal may do is as bad by a grant as by a
// policy, with a condition on the encryption context and without, and both name it.
func TestSameReachSameSeverity(t *testing.T) {
	const key, foreign = "arn:aws:kms:us-east-1:444455556666:key/k", "arn:aws:iam::999988887777:role/visitor"
	r := Rules{Account: "444455556666"}
	names := func(f finding.Finding, operation string) bool {
		return strings.Contains(f.Message, "999988887777") && strings.Contains(f.Message, foreign) && strings.Contains(f.Message, operation)
	}
	seen := map[finding.Severity]bool{}
	for _, operation := range types.GrantOperation("").Values() {
		for _, condition := range []string{"", `,"Condition":{"StringEquals":{"kms:EncryptionContext:app":"x"}}`} {
			if condition != "" && !strings.Contains(string(operation), "crypt") {
				continue // the others have no encryption context
			}
			byGrant := r.JudgeGrant(inventory.Grant{Grantee: foreign, Operations: []string{string(operation)}, Constrained: condition != ""}, false)
			_, byPolicy := r.JudgePolicy(keypolicy.Context{KeyARN: key}, `{"Statement":[{"Effect":"Allow","Principal":{"AWS":"444455556666"},"Action":"kms:*","Resource":"*"},`+
				`{"Effect":"Allow","Principal":{"AWS":"`+foreign+`"},"Action":"kms:`+string(operation)+`","Resource":"*"`+condition+`}]}`)
			if len(byGrant) == 0 || len(byPolicy) == 0 || byGrant[0].Severity != byPolicy[0].Severity || byGrant[0].ID != finding.GrantToForeignAccount || byPolicy[0].ID != finding.ForeignAccount {
				t.Errorf("%s%s: by a grant %v, by a policy %v", operation, condition, byGrant, byPolicy)
				continue
			}
			if !names(byGrant[0], string(operation)) || !names(byPolicy[0], string(operation)) {
				t.Errorf("%s: %q and %q do not both say who may do what", operation, byGrant[0].Message, byPolicy[0].Message)
			}
			seen[byGrant[0].Severity] = true
		}
	}
	if len(seen) != 3 {
		t.Errorf("severities: %v", seen)
	}
}

func TestDangers(t *testing.T) {
	now := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	const own = `{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::444455556666:root"},"Action":"kms:*","Resource":"*"}`
	const open = `{"Statement":[` + own + `,{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}]}`
	// old makes a key that was created 1000 days ago.
	old := func(spec, origin string, more ...func(*Key)) func(*Key) {
		return func(k *Key) {
			k.Spec, k.Origin, k.Created = spec, origin, now.Add(-1000*24*time.Hour)
			for _, change := range more {
				change(k)
			}
		}
	}
	years := func(n int) func(*Rules) { return func(r *Rules) { r.ManualRotationDays = n * 365 } }
	soon, later := now.Add(29*24*time.Hour), now.Add(31*24*time.Hour)
	for name, tt := range map[string]struct {
		change func(k *Key)
		rules  func(r *Rules)
		want   []string
	}{
		"healthy":               {},
		"AWS managed":           {change: func(k *Key) { k.Manager, k.Policy.Value, k.State = "AWS", open, "Disabled" }},
		"open to everybody":     {change: func(k *Key) { k.Policy.Value = open }, want: []string{"critical policy"}},
		"policy not read":       {change: func(k *Key) { k.Policy = Fact[string]{Value: open, At: now, Err: inventory.ErrAccessDenied} }},
		"policy not asked for":  {change: func(k *Key) { k.Policy = Fact[string]{Value: open} }},
		"policy not understood": {change: func(k *Key) { k.Policy.Value = "{" }, want: []string{"high policy"}},
		"disabled":              {change: func(k *Key) { k.State = "Disabled" }, want: []string{"medium disabled"}},
		"disabled, in use":      {change: func(k *Key) { k.State, k.Aliases = "Disabled", []string{"alias/app"} }, want: []string{"high disabled"}},
		"dying":                 {change: func(k *Key) { k.State = "PendingDeletion" }, want: []string{"critical deletion"}},
		"dying replica":         {change: func(k *Key) { k.State = "PendingReplicaDeletion" }, want: []string{"critical deletion"}},
		"dying, approved":       {change: func(k *Key) { k.State, k.Approved = "PendingDeletion", true }, want: []string{"info deletion"}},
		"no material":           {change: func(k *Key) { k.State, k.Origin = "PendingImport", "EXTERNAL" }, want: []string{"high material"}},
		"material to come":      {change: func(k *Key) { k.State, k.Origin, k.Created = "PendingImport", "EXTERNAL", now.Add(-time.Hour) }},
		"material lost": {change: func(k *Key) {
			k.State, k.Origin, k.Created, k.Worked = "PendingImport", "EXTERNAL", now.Add(-time.Hour), true
		}, want: []string{"high material"}},
		"key store gone":         {change: func(k *Key) { k.State, k.CustomKeyStoreID = "Unavailable", "cks-1" }, want: []string{"high unavailable"}},
		"being created":          {change: func(k *Key) { k.State = "Creating" }},
		"rotation off":           {change: func(k *Key) { k.Rotation.Value = inventory.Rotation{} }},
		"rotation was on":        {change: func(k *Key) { k.Rotation.Value, k.Rotated = inventory.Rotation{}, true }, want: []string{"high rotation"}},
		"rotation required":      {change: func(k *Key) { k.Rotation.Value = inventory.Rotation{} }, rules: func(r *Rules) { r.RotationRequired = true }, want: []string{"medium rotation"}},
		"rotation not possible":  {change: func(k *Key) { k.Rotation.Value, k.Spec = inventory.Rotation{}, "RSA_2048" }, rules: func(r *Rules) { r.RotationRequired = true }},
		"rotation too slow":      {change: func(k *Key) { k.Rotation.Value.Period = 366 }, want: []string{"medium rotation"}},
		"rotation, any period":   {change: func(k *Key) { k.Rotation.Value.Period = 366 }, rules: func(r *Rules) { r.RotationPeriodDays = 0 }},
		"old, cannot rotate":     {change: old("RSA_4096", "AWS_KMS"), rules: years(2), want: []string{"medium material-age"}},
		"old, to the day":        {change: old("ECC_NIST_P256", "AWS_KMS"), rules: func(r *Rules) { r.ManualRotationDays = 1000 }, want: []string{"medium material-age"}},
		"old, not by a day":      {change: old("ECC_NIST_P256", "AWS_KMS"), rules: func(r *Rules) { r.ManualRotationDays = 1001 }},
		"old, any age":           {change: old("RSA_4096", "AWS_KMS")},
		"old, HMAC":              {change: old("HMAC_256", "AWS_KMS"), rules: years(2), want: []string{"medium material-age"}},
		"old, in a key store":    {change: old("SYMMETRIC_DEFAULT", "EXTERNAL_KEY_STORE"), rules: years(2), want: []string{"medium material-age"}},
		"old, rotates":           {change: old("SYMMETRIC_DEFAULT", "AWS_KMS"), rules: years(2)},
		"old, imported":          {change: old("SYMMETRIC_DEFAULT", "EXTERNAL", func(k *Key) { k.LastRotation.At = now }), rules: years(2), want: []string{"medium material-age"}},
		"old, rotation not read": {change: old("SYMMETRIC_DEFAULT", "EXTERNAL"), rules: years(2)},
		"old, rotated since": {change: old("SYMMETRIC_DEFAULT", "EXTERNAL", func(k *Key) {
			k.LastRotation = Fact[time.Time]{Value: now.Add(-100 * 24 * time.Hour), At: now}
		}), rules: years(2)},
		"old, rotated long ago": {change: old("SYMMETRIC_DEFAULT", "EXTERNAL", func(k *Key) {
			k.LastRotation = Fact[time.Time]{Value: now.Add(-800 * 24 * time.Hour), At: now}
		}), rules: years(2), want: []string{"medium material-age"}},
		"old, imported RSA":      {change: old("RSA_2048", "EXTERNAL"), rules: years(2), want: []string{"medium material-age"}},
		"old, disabled":          {change: old("RSA_4096", "AWS_KMS", func(k *Key) { k.State = "Disabled" }), rules: years(2), want: []string{"medium disabled"}},
		"old replica":            {change: old("RSA_4096", "AWS_KMS", func(k *Key) { k.MultiRegion = "REPLICA" }), rules: years(2)},
		"old primary":            {change: old("RSA_4096", "AWS_KMS", func(k *Key) { k.MultiRegion = "PRIMARY" }), rules: years(2), want: []string{"medium material-age"}},
		"material expires":       {change: func(k *Key) { k.MaterialExpires = &soon }, want: []string{"high expiry"}},
		"material expires later": {change: func(k *Key) { k.MaterialExpires = &later }},
		"grants": {
			change: func(k *Key) {
				k.Grants.Value = []inventory.Grant{
					{ID: "inside", Grantee: "arn:aws:iam::444455556666:role/app", Operations: []string{"Decrypt", "CreateGrant"}},
					{ID: "trusted", Grantee: "arn:aws:iam::111122223333:role/app", Operations: []string{"Decrypt"}},
					{ID: "outside", Grantee: "arn:aws:iam::999988887777:role/app", Operations: []string{"Decrypt", "CreateGrant"}},
					{ID: "looks", Grantee: "arn:aws:iam::999988887777:role/app", Operations: []string{"DescribeKey"}},
				}
			},
			want: []string{"critical grant/outside", "medium grant/looks"},
		},
		"the worst first": {
			change: func(k *Key) { k.Policy.Value, k.State = open, "Disabled" },
			want:   []string{"critical policy", "medium disabled"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := Key{
				Key:      inventory.Key{ARN: "arn:aws:kms:us-east-1:444455556666:key/k", Manager: "CUSTOMER", State: "Enabled", Origin: "AWS_KMS", Spec: "SYMMETRIC_DEFAULT"},
				Policy:   Fact[string]{Value: `{"Statement":[` + own + `]}`, At: now},
				Rotation: Fact[inventory.Rotation]{Value: inventory.Rotation{Enabled: true, Period: 365}, At: now},
				Grants:   Fact[[]inventory.Grant]{At: now},
			}
			r := Rules{Account: "444455556666", TrustedAccounts: []string{"111122223333"}, RotationPeriodDays: 365}
			if tt.change != nil {
				tt.change(&k)
			}
			if tt.rules != nil {
				tt.rules(&r)
			}
			var got []string
			for _, d := range r.Dangers(k, now) {
				got = append(got, string(d.Severity)+" "+d.Name)
				if d.Text == "" || d.Kind == "" {
					t.Errorf("%s has text %q and kind %q", d.Name, d.Text, d.Kind)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("dangers (-want +got):\n%s", diff)
			}
		})
	}
}
