package arn

import "testing"

func TestParse(t *testing.T) {
	const key, id = "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", "1234abcd-12ab-34cd-56ef-1234567890ab"
	for s, want := range map[string]struct {
		arn                ARN
		name, account, key string
	}{
		key: {ARN{"aws-cn", "kms", "cn-north-1", "111122223333", "key/" + id}, id, "111122223333", id},
		"arn:aws:kms:eu-west-1:111122223333:alias/app/x": {ARN{"aws", "kms", "eu-west-1", "111122223333", "alias/app/x"}, "x", "111122223333", ""},
		"arn:aws:iam::111122223333:role/path/name":       {ARN{"aws", "iam", "", "111122223333", "role/path/name"}, "name", "111122223333", ""},
		"arn:aws:s3:::bucket/key/a:b":                    {ARN{"aws", "s3", "", "", "bucket/key/a:b"}, "a:b", "", ""},
		"arn:aws:sns:us-east-1:111122223333:topic:5e5e":  {ARN{"aws", "sns", "us-east-1", "111122223333", "topic:5e5e"}, "topic:5e5e", "111122223333", ""},
		"arn:aws:iam::aws:policy/AdministratorAccess":    {ARN{"aws", "iam", "", "aws", "policy/AdministratorAccess"}, "AdministratorAccess", "", ""},
		"arn:aws:s3:us-east-1:111122223333:key/" + id:    {ARN{"aws", "s3", "us-east-1", "111122223333", "key/" + id}, id, "111122223333", ""},
		"arn:aws:iam::11112222333x:user/alice":           {ARN{"aws", "iam", "", "11112222333x", "user/alice"}, "alice", "", ""},
		"arn:aws:kms:eu-west-1:111122223333:":            {ARN{"aws", "kms", "eu-west-1", "111122223333", ""}, "", "111122223333", ""},
		"arn:aws:kms:eu-west-1:111122223333":             {},
		"ARN:aws:kms:eu-west-1:111122223333:key/" + id:   {},
		" arn:aws:kms:eu-west-1:111122223333:key/" + id:  {},
		"alias/x":      {},
		id:             {},
		"111122223333": {},
		"":             {},
		"arn:":         {},
		"https://sqs.eu-west-1.amazonaws.com/111122223333/x:y": {},
	} {
		got := Parse(s)
		if got != want.arn || got.Name() != want.name || Account(s) != want.account || KeyID(s) != want.key {
			t.Errorf("%q: %+v, name %q, account %q, key id %q", s, got, got.Name(), Account(s), KeyID(s))
		}
		if got != (ARN{}) && got.String() != s {
			t.Errorf("%q is put together as %q", s, got)
		}
	}
}
