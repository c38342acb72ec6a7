package events

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestActor(t *testing.T) {
	for _, test := range []struct {
		name     string
		identity string
		want     Actor
		line     string
	}{
		{
			name:     "IAM user under a path",
			identity: `{"type":"IAMUser","principalId":"AIDA4EXAMPLE","arn":"arn:aws:iam::444455556666:user/ops/alice","accountId":"444455556666","userName":"alice","accessKeyId":"AKIA4EXAMPLE"}`,
			want:     Actor{Type: "IAMUser", ARN: "arn:aws:iam::444455556666:user/ops/alice", AccountID: "444455556666", PrincipalID: "AIDA4EXAMPLE", Name: "alice", AccessKeyID: "AKIA4EXAMPLE"},
			line:     "alice (IAM user in 444455556666)",
		},
		{
			name:     "IAM user without name or account",
			identity: `{"type":"IAMUser","arn":"arn:aws:iam::444455556666:user/ops/alice"}`,
			want:     Actor{Type: "IAMUser", ARN: "arn:aws:iam::444455556666:user/ops/alice", AccountID: "444455556666", Name: "alice"},
			line:     "alice (IAM user in 444455556666)",
		},
		{
			name:     "role session with MFA, role under a path",
			identity: `{"type":"AssumedRole","principalId":"AROA4EXAMPLE:bob","arn":"arn:aws:sts::444455556666:assumed-role/Admin/bob","accountId":"444455556666","sessionContext":{"sessionIssuer":{"type":"Role","arn":"arn:aws:iam::444455556666:role/ops/Admin"},"attributes":{"mfaAuthenticated":"true"}}}`,
			want:     Actor{Type: "AssumedRole", ARN: "arn:aws:sts::444455556666:assumed-role/Admin/bob", AccountID: "444455556666", PrincipalID: "AROA4EXAMPLE:bob", Name: "Admin", Session: "bob", RoleARN: "arn:aws:iam::444455556666:role/ops/Admin", MFA: "true"},
			line:     "Admin/bob (role session in 444455556666)",
		},
		{
			name:     "role session without its issuer, China",
			identity: `{"type":"AssumedRole","arn":"arn:aws-cn:sts::444455556666:assumed-role/Admin/bob","accountId":"444455556666"}`,
			want:     Actor{Type: "AssumedRole", ARN: "arn:aws-cn:sts::444455556666:assumed-role/Admin/bob", AccountID: "444455556666", Name: "Admin", Session: "bob", RoleARN: "arn:aws-cn:iam::444455556666:role/Admin"},
			line:     "Admin/bob (role session in 444455556666)",
		},
		{
			name:     "role session used by a service",
			identity: `{"type":"AssumedRole","arn":"arn:aws:sts::444455556666:assumed-role/Admin/bob","accountId":"444455556666","invokedBy":"ebs.amazonaws.com"}`,
			want:     Actor{Type: "AssumedRole", ARN: "arn:aws:sts::444455556666:assumed-role/Admin/bob", AccountID: "444455556666", Name: "Admin", Session: "bob", RoleARN: "arn:aws:iam::444455556666:role/Admin", InvokedBy: "ebs.amazonaws.com"},
			line:     "Admin/bob (role session in 444455556666) via ebs.amazonaws.com",
		},
		{
			name:     "person through IAM Identity Center",
			identity: `{"type":"AssumedRole","arn":"arn:aws:sts::444455556666:assumed-role/AWSReservedSSO_Read_Only_0123456789abcdef/carol@example.com","accountId":"444455556666","sessionContext":{"sessionIssuer":{"type":"Role","arn":"arn:aws:iam::444455556666:role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_Read_Only_0123456789abcdef"}}}`,
			want: Actor{Type: "AssumedRole", ARN: "arn:aws:sts::444455556666:assumed-role/AWSReservedSSO_Read_Only_0123456789abcdef/carol@example.com", AccountID: "444455556666", Name: "AWSReservedSSO_Read_Only_0123456789abcdef", Session: "carol@example.com",
				RoleARN: "arn:aws:iam::444455556666:role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_Read_Only_0123456789abcdef"},
			line: "carol@example.com (IAM Identity Center, Read_Only in 444455556666)",
		},
		{
			name:     "IAM Identity Center user without a role",
			identity: `{"type":"IdentityCenterUser","accountId":"444455556666","onBehalfOf":{"userId":"90671e2c-d051-7004-6143-example00000","identityStoreArn":"arn:aws:identitystore::444455556666:identitystore/d-0123456789"},"credentialId":"example"}`,
			want:     Actor{Type: "IdentityCenterUser", AccountID: "444455556666", Name: "90671e2c-d051-7004-6143-example00000"},
			line:     "90671e2c-d051-7004-6143-example00000 (IAM Identity Center user in 444455556666)",
		},
		{
			name:     "root",
			identity: `{"type":"Root","principalId":"444455556666","arn":"arn:aws:iam::444455556666:root","accountId":"444455556666","sessionContext":{"attributes":{"mfaAuthenticated":"false"}}}`,
			want:     Actor{Type: "Root", ARN: "arn:aws:iam::444455556666:root", AccountID: "444455556666", PrincipalID: "444455556666", MFA: "false"},
			line:     "root of 444455556666",
		},
		{
			name:     "federated user",
			identity: `{"type":"FederatedUser","principalId":"444455556666:dave","arn":"arn:aws:sts::444455556666:federated-user/dave","accountId":"444455556666","sessionContext":{"sessionIssuer":{"type":"IAMUser","arn":"arn:aws:iam::444455556666:user/broker"}}}`,
			want:     Actor{Type: "FederatedUser", ARN: "arn:aws:sts::444455556666:federated-user/dave", AccountID: "444455556666", PrincipalID: "444455556666:dave", Name: "dave"},
			line:     "dave (federated user in 444455556666)",
		},
		{
			name:     "SAML user",
			identity: `{"type":"SAMLUser","principalId":"3x4mpl3=:erin","userName":"erin","identityProvider":"3x4mpl3="}`,
			want:     Actor{Type: "SAMLUser", PrincipalID: "3x4mpl3=:erin", Name: "erin"},
			line:     "erin (SAML user)",
		},
		{
			name:     "web identity user",
			identity: `{"type":"WebIdentityUser","principalId":"accounts.example.com:app:frank","userName":"frank","identityProvider":"accounts.example.com"}`,
			want:     Actor{Type: "WebIdentityUser", PrincipalID: "accounts.example.com:app:frank", Name: "frank"},
			line:     "frank (web identity user)",
		},
		{
			name:     "AWS service",
			identity: `{"type":"AWSService","invokedBy":"dynamodb.amazonaws.com"}`,
			want:     Actor{Type: "AWSService", Name: "dynamodb.amazonaws.com", InvokedBy: "dynamodb.amazonaws.com"},
			line:     "dynamodb.amazonaws.com (AWS service)",
		},
		{
			name:     "AWS itself",
			identity: `{"accountId":"444455556666","invokedBy":"AWS Internal"}`,
			want:     Actor{AccountID: "444455556666", InvokedBy: "AWS Internal"},
			line:     "AWS Internal",
		},
		{
			name:     "another account",
			identity: `{"type":"AWSAccount","principalId":"AROA7EXAMPLE:job","accountId":"777788889999"}`,
			want:     Actor{Type: "AWSAccount", AccountID: "777788889999", PrincipalID: "AROA7EXAMPLE:job"},
			line:     "AROA7EXAMPLE:job (principal of account 777788889999)",
		},
		{
			name:     "a type of the future",
			identity: `{"type":"Directory","userName":"grace","accountId":"444455556666"}`,
			want:     Actor{Type: "Directory", AccountID: "444455556666", Name: "grace"},
			line:     "grace (Directory in 444455556666)",
		},
		{
			name:     "text that would break its line or turn its direction",
			identity: `{"type":"IAMUser","userName":"a\nb\u202ec","accountId":"444455556666"}`,
			want:     Actor{Type: "IAMUser", AccountID: "444455556666", Name: "a\nb\u202ec"},
			line:     "a\ufffdb\ufffdc (IAM user in 444455556666)",
		},
		{
			name:     "nobody",
			identity: `{}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := scan(test.identity)
			u := s.identity()
			if err := s.end(); err != nil {
				t.Fatal(err)
			}
			got := u.actor()
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("actor (-want +got):\n%s", diff)
			}
			if got.String() != test.line {
				t.Errorf("String() = %q, want %q", got, test.line)
			}
		})
	}
}
