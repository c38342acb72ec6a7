package iam

import "testing"

func TestCarries(t *testing.T) {
	for _, tc := range []struct {
		action, key    string
		carries, known bool
	}{
		{"kms:Decrypt", "kms:EncryptionContext:a/b", true, true},
		{"kms:PutKeyPolicy", "kms:EncryptionContext:app", false, true},
		{"kms:PutKeyPolicy", "KMS:CallerAccount", true, true},
		{"kms:PutKeyPolicy", "aws:CalledVia", true, true},
		{"kms:TagResource", "aws:RequestTag/team", true, true},
		{"kms:Decrypt", "aws:RequestTag/team", false, true},
		{"kms:Decrypt", "aws:PrincipalTag/a:b", true, true},
		{"kms:Decrypt", "kms:RecipientAttestation:PCR0", true, true},
		{"kms:Decrypt", "lambda:SourceFunctionArn", true, true},
		{"kms:Decrypt", "s3:prefix", false, true},
		{"kms:Decrypt", "kms:NotInvented", true, false},
		{"kms:Encapsulate", "kms:EncryptionContextKeys", true, false},
	} {
		if carries, known := Carries(tc.action, tc.key); carries != tc.carries || known != tc.known {
			t.Errorf("%s, %s: carries %t, known %t", tc.action, tc.key, carries, known)
		}
	}
}

// TestOnlyWhatRequestsHave: what no request for an action has is not there.
func TestOnlyWhatRequestsHave(t *testing.T) {
	p, err := Parse([]byte(`{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:app":"x"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for action, want := range map[string]Decision{"kms:Decrypt": Allow, "kms:PutKeyPolicy": ImplicitDeny} {
		r := with(role(), "kms:EncryptionContext:app", "x")
		r.Action = action
		if got := p.Evaluate(r); got != want {
			t.Errorf("%s: got %d, want %d", action, got, want)
		}
	}
}
