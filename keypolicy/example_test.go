package keypolicy_test

import (
	"fmt"

	"github.com/cmkeeper/cmkeeper/keypolicy"
)

func Example() {
	before, err := keypolicy.Parse([]byte(`{"Version": "2012-10-17", "Statement": [
		{"Sid": "Root", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::444455556666:root"}, "Action": "kms:*", "Resource": "*"}
	]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	after, err := keypolicy.Parse([]byte(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Principal": {"AWS": "444455556666"}, "Action": ["KMS:*"], "Resource": "*"},
		{"Sid": "Oops", "Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
	]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range after.Findings(keypolicy.Context{Account: "444455556666"}) {
		fmt.Printf("%s %s in %s: %s\n", f.Severity, f.ID, f.Statement, f.Message)
	}
	for _, c := range keypolicy.Diff(before, after) {
		fmt.Printf("%s in %s: %s\n", c.Kind, c.Statement, c.Text)
	}
	// Output:
	// critical public-principal in Oops: everyone, in any AWS account, may kms:Decrypt
	// added in Oops: everyone may now kms:Decrypt
}
