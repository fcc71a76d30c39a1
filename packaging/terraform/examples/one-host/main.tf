# One host for everything: the Discord bot and the chat page, in the account's default network.

data "aws_vpc" "this" {
  default = true
}

# Not every zone has every type of host.
data "aws_ec2_instance_type_offerings" "this" {
  location_type = "availability-zone"

  filter {
    name   = "instance-type"
    values = [var.instance_type]
  }
}

data "aws_subnets" "this" {
  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.this.id]
  }

  filter {
    name   = "default-for-az"
    values = ["true"]
  }

  filter {
    name   = "availability-zone"
    values = data.aws_ec2_instance_type_offerings.this.locations
  }
}

module "perch" {
  source = "../.."

  name               = var.name
  environment        = var.environment
  region             = var.region
  vpc_id             = data.aws_vpc.this.id
  subnet_ids         = sort(data.aws_subnets.this.ids)
  package            = var.package
  architecture       = var.architecture
  instance_type      = var.instance_type
  ami_id             = var.ami_id
  session_manager    = true
  ship_journal       = var.ship_journal
  log_retention_days = var.log_retention_days
  http_cidrs         = var.http_cidrs
  http_ports         = var.http_ports
  domain             = var.domain
  alarm_email        = var.alarm_email
}
