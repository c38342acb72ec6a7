# A first deployment: everything observes, and nothing is changed.

provider "aws" {
  region = "eu-central-1"
}

module "cmkeeper" {
  source = "../.."

  template_bucket  = "example-deployments"
  image            = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/cmkeeper:1.0.0"
  vpc_id           = "vpc-0123456789abcdef0"
  subnets          = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  alert_email      = "keys@example.com"
  trusted_accounts = "222233334444"
}

output "alert_topic" {
  value = module.cmkeeper.alert_topic
}
